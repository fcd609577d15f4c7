"""A user's loop of a few epochs, whose tape may be closed, opened and gone on with."""

import pytest
import torch
from helpers_tape import Examples, network, per_example, seed
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik


class Run:
    """A user's objects and their epoch: AdamW with dropout, 3 batches of 4."""

    def __init__(self, tape=True, dropout=0.2, **options):
        seed()
        self.data, self.model = Examples(), network(dropout=dropout)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05)
        self.loader = DataLoader(self.data, batch_size=4, shuffle=True)
        self.tape = self.taped(**options) if tape else None

    def taped(self, store=None, **options):
        settings = {"loss": per_example, "data": self.data, "recorder": "every-k:k=2", **options}
        return ik.Tape(store, self.model, self.optimizer, **settings)

    def epoch(self, tape="own", after_step=lambda k: None):
        tape = self.tape if tape == "own" else tape
        for k, (_, (x, y)) in enumerate(
            tape.batches(self.loader) if tape else ((None, b) for b in self.loader)
        ):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()
            if after_step(k) == "stop":
                break

    def open(self, **more):
        return self.tape.trajectory(test=(self.data.x, self.data.y), **more)


def refused(act, message):
    with pytest.raises(ik.InputError, match=message) as info:
        act()
    assert "\n" not in str(info.value)
