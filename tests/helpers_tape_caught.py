"""A training loop with a tape and default settings, in which somebody does what a tape cannot record."""

import pytest
import torch
from helpers_tape import Examples, network, per_example
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik
from influencekit.errors import InputError

__all__ = ["MEAN", "Loop", "adam", "caught", "once", "sgd"]

MEAN = nn.CrossEntropyLoss()


class Loop:
    """A loop of 9 steps; it calls `mischief(event, loop)` at its begin, forward, backward and stepped."""

    def __init__(
        self, mischief=lambda event, loop: None, optimizer=None, value=None, model=None, data=None, **options
    ):
        torch.manual_seed(0)
        self.data = Examples() if data is None else data
        self.model = network() if model is None else model
        self.optimizer = (optimizer or sgd)(self.model)
        self.value, self.mischief, self.step, self.options = value or MEAN, mischief, 0, options
        self.skip = False

    def run(self, store=None, epochs=3):
        options = {"loss": per_example, "data": self.data, **self.options}
        with ik.Tape(store, self.model, self.optimizer, **options) as tape:
            self.tape = tape
            self.mischief("open", self)
            for _ in range(epochs):
                for _, (x, y) in tape.batches(DataLoader(self.data, batch_size=4, shuffle=True)):
                    self.mischief("begin", self)
                    self.batch = x, y
                    value = self.value(self.model(x), y)
                    self.mischief("forward", self)
                    value.backward()
                    self.mischief("backward", self)
                    if not self.skip:
                        self.optimizer.step()
                    self.optimizer.zero_grad()
                    self.mischief("stepped", self)
                    self.step, self.skip = self.step + 1, False
        return tape


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=0.01)


def once(event, act, step=5):
    """Mischief in one step only."""

    def mischief(name, loop):
        if name == event and loop.step == step:
            act(loop)

    return mischief


def caught(loop, message, kind=InputError, **options):
    with pytest.raises(kind, match=message) as info:
        loop.run(**options)
    text = str(info.value)
    assert "\n" not in text and len(text) < 420
    return text
