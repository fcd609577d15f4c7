"""A run and its states, queries and estimators of the user's own, and a tape of a loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from benchmarks.shared.odd.common import bad_path, flag_off, one_of_text, recorder_spec
from benchmarks.shared.odd.drawing import Callee, Given, Later, World, callee
from benchmarks.shared.odd.ids import ids_kind
from benchmarks.shared.odd.models import losses_kind
from benchmarks.shared.odd.own import estimator_kind, penalty_kind, query_kind
from benchmarks.shared.odd.values import flag, number, one_of, whole
from benchmarks.shared.odd.world import parts, squared

__all__ = ["TAPES"]


def tape(every: World, given: dict[str, Any]) -> Any:
    made = parts()
    model, (x, y) = given.pop("model", made["model"]), made["train"]
    trained = model if isinstance(model, nn.Module) else made["model"]
    optimizer = given.pop("optimizer", None)
    if optimizer is None:
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    store, batches = given.pop("store", None), given.pop("batches", None)
    settings = {"loss": squared, "data": TensorDataset(x, y), "check": 0.0, **given}
    loader = DataLoader(TensorDataset(x, y), batch_size=4) if batches is None else batches
    with ik.Tape(store, model, optimizer, **settings) as taped:
        for _ in range(2):
            for _, (inputs, target) in taped.batches(loader):
                optimizer.zero_grad()
                squared(model(inputs), target).mean().backward()
                optimizer.step()
    return ik.estimate(taped.trajectory(test=made["test"])).drop_attrs()


def same_tape(every: World, found: Any, given: Given) -> str:
    """What is wrong with the scores of a run that was taped with a loss that may be the loop's."""
    return "" if found.equals(tape(every, {})) else "other scores than those of the loop's own loss"


def scores(every: World, given: dict[str, Any]) -> Any:
    return ik.estimate(every["run"], **given).drop_attrs()


def retrained(every: World, given: dict[str, Any]) -> Any:
    return scores(every, {"estimator": "loo", **given})


TAPES: tuple[Callee, ...] = (
    callee("Trajectory.state", lambda e, g: e["run"].state(**g).theta, t=whole([0, 4], [5, -1, 10**30])),
    callee("Trajectory.evaluated", lambda e, g: e["run"].evaluated(**g).theta, t=whole([0, 4], [5, -1])),
    callee("own query", scores, query=query_kind),
    callee("own query, retrained", retrained, query=query_kind),
    callee("own estimator", scores, estimator=estimator_kind),
    callee("own penalty", tape, penalty=penalty_kind),
    callee("own loss on a tape", tape, same_tape, loss=losses_kind),
    callee(
        "Tape",
        tape,
        store=bad_path,
        recorder=recorder_spec,
        reduction=one_of(["mean"]),
        accumulate=whole([1], [0, -1, 2], none=True),
        clip_norm=number([1e9], [0.0, -1.0], none=True),
        clip_value=number([1e9], [0.0, -1.0], none=True),
        clip_norm_type=number([2.0], [0.0, -1.0]),
        separable=flag(),
        ids=ids_kind(8),
        resume=flag_off,
        check=number([0.0, 1.0], [-0.1, 1.1]),
        tolerance=number([1e-2], [-1.0, float("inf")]),
        name=one_of_text("mine"),
        target_key=one_of_text("labels"),
        model=Later("model"),
        optimizer=Later("torch optimizer"),
        loss=Later("a function", "model", "torch optimizer"),
        data=Later("a list", "pictures", "tensor", "mask"),
        collate=Later("a function", "model"),
        forward=Later("a function", "model"),
        penalty=Later("a function", "model"),
        scaler=Later(),
        scheduler=Later(),
        batches=Later(),
    ),
)
