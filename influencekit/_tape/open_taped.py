"""Open a taped run: its store together with the user's model, loss and data."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor, nn
from torch.utils.data import default_collate

from influencekit._tape.checks.model import refuse_random_evaluation
from influencekit._tape.checks.opened import check_opened
from influencekit._tape.fingerprint import check_fingerprint
from influencekit._tape.hyperparameters import settings_of
from influencekit._tape.loader import fetch
from influencekit._tape.optimizer import rebuild_optimizer
from influencekit._tape.recorded import Recorded
from influencekit._tape.replica import Call, Micro, RecordedExamples, on_device, put_back, set_modes
from influencekit._tape.rng import capture, fixed
from influencekit._training.batch import Batch
from influencekit._training.checks.model import copy_model
from influencekit._training.layout import Layout
from influencekit._training.plan import Plan
from influencekit._training.step import Step
from influencekit._training.workload import Workload
from influencekit._trajectory.store import read
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InputError, StoreError

__all__ = ["open_taped"]


def open_taped(
    group: zarr.Group, where: str, *, model: nn.Module, loss: Callable[[Any, Any], Tensor], data: Any,
    test: Any = None, test_ids: Sequence[Hashable] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> Trajectory:  # fmt: skip
    """The recorded run as a `Trajectory`. See `influencekit.open`."""
    attrs: dict[str, Any] = dict(group.attrs)
    about, collate = attrs["tape"], collate or default_collate
    steps = int(attrs["committed"])
    if not steps:
        raise StoreError(f"{where} holds no committed step; resume the run, or record it again")
    if about["custom_forward"] and forward is None:
        raise InputError(f"{where} was recorded with a forward function of your own; pass forward=... again")
    check_fingerprint(attrs["fingerprint"], model, data, [n for n, _ in attrs["buffers"]], where)
    call = Call(loss, data, collate, about["target_key"], forward)
    rows = slice(0, steps)
    columns = {n: read(group, n, rows) for n in ("batch", "part", "coefficient", "lr", "epoch")}
    micros = _micros(group, rows, columns["batch"], columns["part"])
    changes = [row for row in (read(group, "settings") if "settings" in group else ()) if row[0] < steps]
    device = next(model.parameters()).device
    workload = Workload(
        model=_at_start(group, model),
        loss=loss,
        train=RecordedExamples(call, device),  # type: ignore[arg-type]
        test=None if test is None else _whole(test, collate, device),  # type: ignore[arg-type]
        optimizer=rebuild_optimizer(about["optimizer"]),
        name=attrs["workload"],
        train_ids=read(group, "train").tolist(),
        test_ids=test_ids,
        target_key=about["target_key"],
        call=call,
        order=Plan(
            torch.from_numpy(columns["batch"]),
            torch.from_numpy(columns["lr"]),
            torch.from_numpy(columns["epoch"]),
            torch.from_numpy(columns["coefficient"]),
            about["updates"],
            settings_of(about["optimizer"]["groups"], changes),
        ),
    )
    source = Recorded(
        workload=workload,
        call=call,
        micros=micros,
        first=lambda: trajectory.state(trajectory.first),
        autocast=None if about["autocast"] is None else getattr(torch, about["autocast"]),
        random=bool((read(group, "forward_rng", rows) >= 0).any()),
        changing=tuple(n for n, _ in attrs["buffers"]),
        separable=about["separable"],
        scales=tuple((int(row[0]), float(row[-1])) for row in changes),
    )
    trajectory = Trajectory(group, workload, Step(workload, source=source))
    check_opened(trajectory, where, source.rounds)
    if test is not None:
        final = trajectory.final
        there = workload.with_buffers(final.buffers)
        refuse_random_evaluation(there)
        trajectory.attrs = {**attrs, **there.judge(final.theta).attrs()}
    return trajectory


def _at_start(group: zarr.Group, model: nn.Module) -> nn.Module:
    """A copy of the model as it was at the recorded state 0: its weights, what it trained, and its modes."""
    attrs: dict[str, Any] = dict(group.attrs)
    trained, training = {n for n, _ in attrs["fingerprint"]["parameters"]}, set(attrs["tape"]["training"])
    own = copy_model(model)
    for name, p in own.named_parameters():
        p.requires_grad_(name in trained)
    set_modes(own, {name: name in training for name, _ in own.named_modules()})
    theta = torch.from_numpy(read(group, "theta", slice(0, 1))[0])
    put_back(dict(own.named_parameters()), Layout.of(own).split(theta))
    return own


def _micros(
    group: zarr.Group, rows: slice, batch: np.ndarray, part: np.ndarray
) -> Callable[[int], list[Micro]]:
    """The micro-batches of a step; generator states are read from the store when needed."""
    fetched, forwarded = read(group, "fetch_rng", rows), read(group, "forward_rng", rows)

    @lru_cache(maxsize=64)
    def generators(number: int) -> bytes | None:
        return None if number < 0 else read(group, "rng", slice(number, number + 1))[0].tobytes()

    def micros(t: int) -> list[Micro]:
        found = []
        for k in range(int(part[t].max()) + 1):
            places = np.flatnonzero((part[t] == k) & (batch[t] >= 0))
            slots = slice(int(places[0]), int(places[-1]) + 1)
            found.append(
                Micro(slots, batch[t, slots].tolist(), generators(fetched[t, k]), generators(forwarded[t, k]))
            )
        return found

    return micros


def _whole(test: Any, collate: Callable[[list[Any]], Any], device: torch.device) -> Batch:
    """A test set as one batch: a batch as it is, a data set collated."""
    if isinstance(test, Tensor | Mapping) or (
        isinstance(test, tuple) and all(isinstance(x, Tensor) for x in test)
    ):
        return on_device(test, device)
    if not (hasattr(test, "__len__") and hasattr(test, "__getitem__") and len(test)):
        raise InputError(f"test: expected a batch of tensors or a data set, got {type(test).__name__}")
    with fixed():
        return on_device(fetch(test, collate, range(len(test)), capture()), device)
