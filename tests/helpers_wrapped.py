"""A loop whose model, optimizer and loader are wrapped, and what PyTorch alone makes of it."""

import pytest
import torch
from helpers_tape import Examples, N, held_out, network, per_example, seed, untraced, vector
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik


def loader_of(data, **more):
    return DataLoader(data, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(5), **more)


def plain_loop(model, optimizer, batches, step=None):
    """The loop without a tape: (loss, optimizer) as usual."""
    for x, y in batches:
        optimizer.zero_grad()
        per_example(model(x), y).mean().backward()
        (step or optimizer.step)()


def alone(weights=None, data=None, epochs=2):
    """Two epochs in PyTorch alone; weights [N] on the losses. Theta at the end."""
    seed()
    data, model = data or Examples(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = loader_of(range(len(data)))
    weights = torch.ones(N, dtype=torch.float64) if weights is None else weights
    for _ in range(epochs):
        for rows in loader:
            x, y = (torch.stack(part) for part in zip(*[data[int(i)][:2] for i in rows], strict=True))
            optimizer.zero_grad()
            (weights[rows] * per_example(model(x), y)).mean().backward()
            optimizer.step()
    return vector(model)


def loss_at(theta):
    model = network().eval()
    nn.utils.vector_to_parameters(theta, model.parameters())
    x, y = held_out()
    with torch.no_grad():
        return per_example(model(x), y).mean().item()


def right(run):
    """The run is the plain loop's; leaving an example out is that loop without it."""
    assert torch.equal(run.final.theta, alone())
    with untraced():
        found = ik.estimate(run, "test-loss", "loo").influence.values[0, 0]
    for j in (0, 5):
        without = loss_at(alone((torch.arange(N) != j).double())) - loss_at(alone())
        assert found[j] == pytest.approx(without, rel=1e-9, abs=1e-13)


def setup(model=None):
    seed()
    model = network() if model is None else model
    return model, torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)


def record(make, loader=None, data=None, **options):
    """Tape a loop whose model, optimizer and loader `make(model, optimizer, loader)` wraps."""
    data = Examples() if data is None else data
    model, optimizer = setup()
    wrapped = make(model, optimizer, loader_of(data) if loader is None else loader)
    called, stepper, batches = wrapped[:3]
    with ik.Tape(None, called, stepper, loss=per_example, data=data, check=1.0, **options) as tape:
        for _ in range(2):
            for _, (x, y) in tape.batches(batches):
                stepper.zero_grad()
                (wrapped[3] if len(wrapped) > 3 else torch.Tensor.backward)(per_example(called(x), y).mean())
                stepper.step()
    return tape
