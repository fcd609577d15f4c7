"""Loops that save, copy, average and reload their model, that stop early, and that go on later."""

import copy
import io
import pickle

import pytest
import torch
from helpers_tape import Examples, network, per_example, seed, vector
from torch import nn
from torch.optim.swa_utils import AveragedModel
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


# copies and saved models --------------------------------------------------------------------------------


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "torch.save": saved,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "deepcopy": copy.deepcopy,
    "average": lambda model: AveragedModel(model).module,
    "copy of a copy": lambda model: saved(copy.deepcopy(saved(model))),
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_a_copy_feeds_no_tape(make):
    """It may even be trained while the tape listens to the model."""
    run, plain = Run(), Run(tape=False)
    for _ in range(2):
        plain.epoch()
    seed()
    with run.tape:
        for _ in range(2):
            run.epoch()
            own = make(run.model)
            assert torch.equal(vector(own), vector(run.model))
            per_example(own.eval()(run.data.x), run.data.y).sum().backward()
    trajectory = run.open()
    assert trajectory.steps == 6
    assert torch.equal(trajectory.final.theta, vector(plain.model))
    assert torch.equal(trajectory.step.advance(trajectory.state(5))[0].theta, vector(plain.model))


def test_saved_objects_need_no_influencekit():
    run = Run()
    with run.tape:
        run.epoch()
        for thing in (run.model, run.optimizer):
            assert b"influencekit" not in pickle.dumps(thing)
            file = io.BytesIO()
            torch.save(thing, file)
            assert b"influencekit" not in file.getvalue()
