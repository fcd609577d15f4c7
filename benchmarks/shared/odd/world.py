"""What calls are made with: a tiny workload, runs of it, and what was made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

import influencekit as ik
from influencekit import evaluation, queries, recorders
from influencekit.estimators import dit

__all__ = ["labelled", "parts", "squared", "world"]


def squared(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (outputs.squeeze(-1) - target) ** 2


def parts(n: int = 8) -> dict[str, Any]:
    """The arguments of a tiny workload of four steps."""
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    return {
        "model": nn.Linear(3, 1),
        "loss": squared,
        "train": (x, x[:, 0] * 2),
        "test": (x[:4] + 1, x[:4, 1]),
        "optimizer": ik.SGD(lr=0.1),
        "batch_size": 4,
        "epochs": 2,
    }


def labelled() -> dict[str, Any]:
    """The arguments of a workload of two classes: 30 examples and 24 others."""
    x = torch.randn(54, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    y = (x[:, 0] > 0).long()
    return {
        "model": nn.Linear(3, 2), "loss": nn.CrossEntropyLoss(reduction="none"), "train": (x[:30], y[:30]),
        "test": (x[30:], y[30:]), "optimizer": ik.SGD(lr=0.1), "batch_size": 10, "epochs": 2,
    }  # fmt: skip


def world(folder: Path) -> dict[str, Any]:
    """What calls are made with, and passed in the place of something else."""
    work, store = ik.Workload(**parts()), folder / "run.zarr"
    run, other = ik.record(work), ik.record(ik.Workload(**parts(6)))
    ik.record(work, "every-k:k=2", store)
    scores, corrupted = ik.estimate(run, windows="each-epoch"), np.arange(8) % 4 == 0
    hole = scores.copy(deep=True)
    hole.influence.values[0, 0, 2] = np.nan
    return {
        "run": run, "clean run": ik.record(ik.Workload(**labelled())), "work": work,
        "other run": other, "store": store, "store text": str(store),
        "scores": scores, "influence": scores.influence, "one": scores.influence[0, 0], "hole": hole,
        "hole's one": hole.influence[0, 0], "other scores": ik.estimate(other),
        "comparison": ik.compare(run, ["dit", "if"]), "contributions": ik.contributions(run),
        "found": evaluation.detection(scores.influence[0, 0], corrupted), "mask": corrupted,
        "lds": ik.evaluate(run, "lds:m=4")["lds:m=4"],
        "pictures": np.random.default_rng(0).random((8, 4, 4)), "tensor": torch.arange(8.0),
        "model": nn.Linear(3, 1), "torch optimizer": torch.optim.SGD([torch.ones(1)], 1),
        "query": queries.TestLoss(), "estimator": dit.DIT(), "recorder": recorders.Full(),
        "window": ik.Window(0, 2), "optimizer": ik.SGD(lr=0.1), "the class DIT": dit.DIT, "a number": 3,
        "text": "odd", "bytes": b"odd", "a list": [1, 2], "a dict": {"a": 1}, "an object": object(),
        "a set": {1}, "a function": squared, "an empty dataset": xr.Dataset(),
        "an array of texts": np.array(["a", "b"]), "nan": float("nan"), "folder": folder,
        "a generator": (k for k in range(3)),
    }  # fmt: skip
