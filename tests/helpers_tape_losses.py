"""Losses as people write them: what the loop minimises, in PyTorch alone with a weight on every example, and
what the tape is told of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from helpers_tape import sample, untraced
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

import influencekit as ik

N = 12


def plain_data(seed=0, n=N, dtype=torch.float64):
    return TensorDataset(*sample(n, seed, dtype))


def plain_model(dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


@dataclass(frozen=True, kw_only=True)
class Case:
    """`value(model, batch, w)` is what the loop minimises, w [n] being ones in the loop itself; `told` what
    the tape and `open` are told, `taped` what the tape alone is; `query(model, batch)` the test losses."""

    value: Callable[[nn.Module, Any, torch.Tensor], torch.Tensor]
    query: Callable[[nn.Module, Any], torch.Tensor]
    told: dict[str, Any]
    taped: dict[str, Any] = field(default_factory=dict)
    opened: dict[str, Any] = field(default_factory=dict)
    model: Callable[..., nn.Module] = plain_model
    data: Callable[..., Any] = plain_data
    optimizer: Callable[[Any], torch.optim.Optimizer] = lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9)
    accumulate: int = 1
    replayed: str = "bit for bit"
    h: float = 1e-3


def order(n, size=4):
    generator = torch.Generator().manual_seed(4)
    return [[b.tolist() for b in torch.randperm(n, generator=generator).split(size)] for _ in range(2)]


def loop(case: Case, batches: Callable[[Any], Any], model: nn.Module, weights: torch.Tensor):
    """The user's loop. `batches(epoch)` gives (positions, batch); `weights` [train] are on the losses."""
    optimizer = case.optimizer(model.parameters())
    for epoch in order(len(weights)):
        for k, (rows, batch) in enumerate(batches(epoch)):
            (case.value(model, batch, weights[rows]) / case.accumulate).backward()
            if (k + 1) % case.accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()


def alone(case: Case, weights: torch.Tensor) -> nn.Module:
    """The loop by PyTorch alone; the trained model."""
    torch.manual_seed(3)
    data, model = case.data(), case.model()
    loop(case, lambda epoch: [(r, default_collate([data[i] for i in r])) for r in epoch], model, weights)
    return model


def recorded(case: Case, dtype=torch.float64, store=None, **more):
    """The tape of the loop, closed, and the model that was trained."""
    torch.manual_seed(3)
    data, model = case.data(dtype=dtype), case.model(dtype)
    optimizer = case.optimizer(model.parameters())
    settings = {
        "data": data,
        "accumulate": case.accumulate,
        "check": 1.0,
        **case.told,
        **case.taped,
        **case.opened,
    }
    settings |= more
    with ik.Tape(store, model, optimizer, recorder="every-k:k=2", **settings) as tape:
        loop(
            replace(case, optimizer=lambda params: optimizer),
            lambda epoch: tape.batches(
                DataLoader(data, batch_sampler=epoch, generator=torch.Generator().manual_seed(5))
            ),
            model,
            torch.ones(len(data), dtype=dtype),
        )
    return tape, model


def test_loss(case: Case, model: nn.Module) -> float:
    """The query: the mean loss of held-out examples in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return float(case.query(model, held_out(case)).mean())


test_loss.__test__ = False


def held_out(case: Case, dtype=torch.float64):
    data = case.data(seed=1, n=6, dtype=dtype)
    batch = default_collate([data[i] for i in range(len(data))])
    return tuple(batch) if isinstance(batch, list) else batch


def check(case: Case, name: str = "dit", tolerance: float = 1e-5) -> ik.Trajectory:
    """Scores against the loop by PyTorch alone: `dit` against central differences, `loo` against weight 0."""
    tape, _ = recorded(case)
    run = tape.trajectory(test=held_out(case))
    assert run.attrs["replay"].startswith(f"{run.steps} steps replayed, equal {case.replayed}"), run.attrs[
        "replay"
    ]
    n = run.workload.n_train
    d = torch.randn(n, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    with untraced():
        found = ik.estimate(run, "test-loss", name).influence.values[0, 0]
        left = ik.estimate(run, "test-loss", "loo").influence.values[0, 0]

    def f(h):
        return test_loss(case, alone(case, 1 + h * d))

    h = case.h
    rows = [(f(s) - f(-s)) / (2 * s) for s in (h, h / 2)]
    assert found @ d.numpy() == pytest.approx(-(rows[1] + (rows[1] - rows[0]) / 3), rel=tolerance)
    full = f(0)
    for j in (0, n // 2):
        expected = test_loss(case, alone(case, 1 - (torch.arange(n) == j).double())) - full
        assert left[j] == pytest.approx(expected, abs=1e-9)
    return run
