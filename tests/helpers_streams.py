"""Loops over streams of batches, with ids of their own, and what PyTorch alone makes of them."""

import pytest
import torch
from helpers_tape import Examples, N, losses_at, network, per_example, seed, untraced, vector
from test_tape_laws import derivative
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import influencekit as ik
from influencekit import Window

NAMES = [f"example {i}" for i in range(N)]
TEXTS = [torch.randint(1, 9, (n,), generator=torch.Generator().manual_seed(n)) for n in (3, 5, 2, 7, 4, 3)]


def drawn(epoch):
    """The batches of an epoch: some examples several times, some not at all."""
    generator = torch.Generator().manual_seed(epoch)
    return torch.randint(N, (4, 5), generator=generator).tolist()


def batches(epoch, noise=0.0):
    """(rows, x, y) as a stream makes them; `noise`: other content every time."""
    data, generator = Examples(), torch.Generator().manual_seed(10 + epoch)
    for rows in drawn(epoch):
        x = data.x[rows]
        yield rows, x + noise * torch.randn(x.shape, generator=generator, dtype=x.dtype), data.y[rows]


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)


def alone(weights=None, noise=0.0, epochs=2):
    """The loop in PyTorch alone: theta before every step, and last."""
    seed()
    model = network(dropout=0.2)
    optimizer, states = optimizer_of(model), [vector(model)]
    for epoch in range(epochs):
        for rows, x, y in batches(epoch, noise):
            optimizer.zero_grad()
            losses = per_example(model(x), y)
            (losses if weights is None else losses * weights[rows]).mean().backward()
            optimizer.step()
            states.append(vector(model))
    return states


def train(tape, model, optimizer, source, stop=None, epochs=2):
    """Two epochs over source(epoch); `stop`: an exception after so many steps, as when a process dies."""
    for epoch in range(epochs):
        for _, (x, y) in tape.batches(source(epoch)):
            optimizer.zero_grad()
            per_example(model(x), y).mean().backward()
            optimizer.step()
            if stop is not None and (stop := stop - 1) == 0:
                raise KeyboardInterrupt


def named(noise=0.0):
    return lambda epoch: (([NAMES[i] for i in rows], (x, y)) for rows, x, y in batches(epoch, noise))


def record(store, source, stop=None, **options):
    seed()
    model = network(dropout=0.2)
    optimizer = optimizer_of(model)
    settings = {"recorder": "every-k:k=3", "check": 1.0} | options
    with ik.Tape(store, model, optimizer, loss=per_example, data=None, **settings) as tape:
        train(tape, model, optimizer, source, stop)
    return tape


def scores(run, estimator, windows=None):
    with untraced():
        return ik.estimate(run, "test-loss", estimator, windows).influence


def right(run, noise=0.0, names=NAMES):
    """First order against differences of the plain loop, leave-one-out against it without the example."""
    full = alone(noise=noise)
    assert run.attrs["replay"].endswith("bit for bit") and torch.equal(run.final.theta, full[-1])
    shown = [name for name in names if name in run.workload.train_ids]
    assert sorted(map(str, shown)) == sorted(map(str, run.workload.train_ids))
    windows = [Window(0, run.steps), Window(2, 5)]
    d = torch.randn(N, generator=torch.Generator().manual_seed(6), dtype=torch.float64)

    def f(h, window):
        states = alone(1 + h * d, noise)
        return float((losses_at(states[window.stop]) - losses_at(states[window.start])).mean())

    found, exact = scores(run, "dit", windows), scores(run, "loo", windows[:1])
    for k, window in enumerate(windows):
        value = sum(float(d[names.index(n)]) * float(found[0, k].sel(train=n)) for n in shown)
        assert value == pytest.approx(-derivative(lambda h, w=window: f(h, w), 1e-2), rel=1e-5)
    for name in shown[:3]:
        left = alone((torch.arange(N) != names.index(name)).double(), noise)
        expected = float((losses_at(left[-1]) - losses_at(full[-1])).mean())
        assert float(exact[0, 0].sel(train=name)) == pytest.approx(expected, rel=1e-9, abs=1e-13)


class Stream(IterableDataset):
    """The examples of an epoch, one after the other."""

    epoch = 0

    def __iter__(self):
        for _, x, y in batches(self.epoch):
            yield from zip(x, y, strict=True)


def loader(epoch):
    stream = Stream()
    stream.epoch = epoch
    return DataLoader(stream, batch_size=5, generator=torch.Generator())  # draws nothing from the global one


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.words, self.out = nn.Embedding(9, 3, dtype=torch.float64), nn.Linear(3, 3).double()

    def forward(self, x):
        return self.out((self.words(x) * (x > 0)[..., None]).sum(1))


def padded(weights=None, tape=None, model=None):
    model = Bag() if model is None else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    order = [[0, 1], [2, 0], [3, 4], [5, 2], [1, 3], [0, 0]]

    def source():
        for rows in order:
            x = nn.utils.rnn.pad_sequence([TEXTS[i] for i in rows], batch_first=True)
            yield rows, (x, torch.tensor([i % 3 for i in rows]))

    def loop(pairs):
        for rows, (x, y) in pairs:
            optimizer.zero_grad()
            losses = per_example(model(x), y)
            (losses if weights is None else losses * weights[rows]).mean().backward()
            optimizer.step()
        return vector(model)

    if tape is None:
        return loop(source())
    with ik.Tape(tape, model, optimizer, loss=per_example, data=None, check=1.0) as roll:
        loop(roll.batches(source()))
    return roll
