"""A small store of every kind, in chunks of four rows, and what opens it again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from influencekit._training.step import Step
from influencekit._trajectory.writing import ledger
from influencekit.testing import tiny_workload

__all__ = ["KINDS", "Kind", "made", "scores"]

N, TEST, EPOCHS = 10, 4, 3  # of the problems that are no tiny_workload


class Kind:
    """`make(path)` records a store, `open(path)` opens it."""

    def __init__(self, make: Callable[[Path], Any], open: Callable[[Path], Any]) -> None:
        self.make, self.open = make, open


def _recorded(workload: Callable[[], ik.Workload], recorder: str = "full", window: Any = None) -> Kind:
    return Kind(lambda path: ik.record(workload(), recorder, path, window), lambda p: ik.open(p, workload()))


def _numbers(count: int, start: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(start)
    x = torch.randn(count, 3, generator=draw)
    return x, (x[:, 0] > 0).float()


def _loss(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(output.squeeze(-1), target, reduction="none")


def _squared(output: Tensor, target: Tensor) -> Tensor:
    return (output.squeeze(-1) - target).square()


def _network(*middle: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 2), *middle, nn.Tanh(), nn.Linear(2, 1))


def _workload(*middle: nn.Module, **more: Any) -> ik.Workload:
    settings = {
        "model": _network(*middle), "loss": _loss, "train": _numbers(N), "test": _numbers(TEST, 1),
        "optimizer": ik.SGD(lr=0.2, momentum=0.9), "epochs": EPOCHS, "batch_size": 4, "seed": 1,
    }  # fmt: skip
    return ik.Workload(**settings | more)


def _diverging() -> ik.Workload:
    steps = ik.Factors((1.0,) * 6 + (1e30,) * 3)
    return _workload(loss=_squared, schedule=steps, optimizer=ik.SGD(lr=0.1))


def _stopped(path: Path) -> None:
    try:
        ik.record(_diverging(), "every-k:k=2", path)
    except ik.InfluenceKitError:
        return
    raise AssertionError("the run did not diverge")


def _cut_off(path: Path) -> None:
    advance = Step.advance

    def interrupted(self: Step, state: Any) -> Any:
        if state.step == 7:
            raise KeyboardInterrupt
        return advance(self, state)

    try:
        with mock.patch.object(Step, "advance", interrupted):
            ik.record(_workload(), "every-k:k=3", path)
    except KeyboardInterrupt:
        return
    raise AssertionError("the run was not interrupted")


class _Noisy(TensorDataset):
    """Examples that are augmented anew every time."""

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn(3), y


def _parts() -> dict[str, Any]:
    return {"model": _network(nn.Dropout(0.2)), "loss": _loss, "data": _Noisy(*_numbers(N))}


def _tape(path: Path, data: Any, **options: Any) -> None:
    torch.manual_seed(2)
    parts = _parts()
    model = parts["model"].train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    loader = DataLoader(parts["data"] if data is None else data, batch_size=4, shuffle=True)
    with ik.Tape(path, model, optimizer, loss=_loss, data=data, **options) as tape:
        for _ in range(EPOCHS):
            for _, (x, y) in tape.batches(loader):
                optimizer.zero_grad()
                _loss(model(x), y).mean().backward()
                optimizer.step()


def _open_tape(path: Path, **changes: Any) -> Any:
    return ik.open(path, **_parts() | {"test": _numbers(TEST, 1)} | changes)


_NAMES = [f"row {i}" for i in range(N)]
KINDS: dict[str, Kind] = {
    "full": _recorded(tiny_workload),
    "every-k, Adam": _recorded(lambda: tiny_workload(ik.Adam(lr=0.05)), "every-k:k=2"),
    "revolve": _recorded(lambda: tiny_workload(classes=3), "revolve:states=3"),
    "rounded": _recorded(_workload, "rounded:bits=7:k=2"),
    "buffers": _recorded(lambda: _workload(nn.BatchNorm1d(2)), "every-k:k=2"),
    "text ids, a window": _recorded(lambda: _workload(train_ids=_NAMES), "full", (2, 8)),
    "stopped": Kind(_stopped, lambda path: ik.open(path, _diverging())),
    "unfinished": Kind(_cut_off, lambda path: ik.open(path, _workload())),
    "tape": Kind(lambda path: _tape(path, _parts()["data"], recorder="every-k:k=2"), _open_tape),
    "tape, text ids": Kind(lambda path: _tape(path, _parts()["data"], ids=_NAMES), _open_tape),
    "stream": Kind(
        lambda path: _tape(path, None, recorder="every-k:k=2"), lambda path: _open_tape(path, data=None)
    ),
}


def made(name: str, path: Path) -> None:
    """Record a store of this kind at `path`."""
    with mock.patch.object(ledger, "_ROWS", 4), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        KINDS[name].make(path)


def scores(name: str, path: Path) -> tuple[bytes, list[Any]]:
    """The scores of the run in a store, and whose they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = KINDS[name].open(path)
        last = run.last - (run.attrs["status"] == "stopped")  # the last step of which diverged
        found = ik.estimate(run, windows=f"step:{run.first}-{last}", removal="window")
    return np.ascontiguousarray(found.influence.values).tobytes(), found.train.values.tolist()
