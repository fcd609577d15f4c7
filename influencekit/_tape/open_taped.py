"""Open a taped run: its store together with the user's model, loss and data."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor, nn
from torch.utils.data import IterableDataset, default_collate

from influencekit._tape.checks.agreement import check_agreement
from influencekit._tape.checks.columns import COLUMNS, check_columns
from influencekit._tape.checks.model import refuse_random_evaluation
from influencekit._tape.checks.opened import check_opened
from influencekit._tape.fingerprint import check_fingerprint, check_penalty, watched
from influencekit._tape.hyperparameters import settings_of
from influencekit._tape.index_entry import WithoutEntry, without
from influencekit._tape.loader import as_data_set, fetch
from influencekit._tape.optimizer import rebuild_optimizer
from influencekit._tape.recorded import Recorded
from influencekit._tape.replica import Call, Micro, Penalty, RecordedExamples, on_device, put_back, set_modes
from influencekit._tape.rng import capture, fixed
from influencekit._tape.stream import StreamExamples
from influencekit._tape.unwrap import find_loader, plain_copy
from influencekit._training.batch import Batch, tensors_of
from influencekit._training.checks.examples import refuse_other_shapes
from influencekit._training.checks.model import copy_model, frozen
from influencekit._training.checks.step import refuse_kept_weights
from influencekit._training.layout import Layout
from influencekit._training.plan import Plan
from influencekit._training.step import Step
from influencekit._training.workload import Workload
from influencekit._trajectory.fingerprint import Known
from influencekit._trajectory.store import read
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InputError, StoreError

__all__ = ["open_taped", "whole_set"]


def open_taped(
    group: zarr.Group, where: str, *, model: nn.Module, loss: Callable[[Any, Any], Any], data: Any,
    test: Any = None, test_ids: Sequence[Hashable] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None, penalty: Penalty | None = None,
    class_names: Sequence[str] | None = None, known: Known | None = None,
) -> Trajectory:  # fmt: skip
    """The recorded run as a `Trajectory`. See `influencekit.open`. `known`: what was compared already."""
    attrs: dict[str, Any] = dict(group.attrs)
    about, model, data = attrs["tape"], plain_copy(model), as_data_set(data)
    plain = collate.collate if isinstance(collate, WithoutEntry) else collate or default_collate
    key = about.get("index_entry")
    collate = plain if key is None else WithoutEntry(plain, key)
    steps = int(attrs["committed"])
    if not steps:
        raise StoreError(f"{where} holds no committed step; resume the run, or record it again")
    if about["custom_forward"] and forward is None:
        raise InputError(f"{where} was recorded with a forward function of your own; pass forward=... again")
    check_penalty(about, penalty, where)
    if data is None or isinstance(data, IterableDataset):
        data = StreamExamples()
        data.dropped = key
        if attrs["fingerprint"]["training examples"] is None:
            data.load(group)
    changing = [n for n, _ in attrs["buffers"]]
    known = known or check_fingerprint(attrs, model, data, changing, where, loss)
    call = Call(loss, data, collate, about["target_key"], forward, penalty)
    rows = slice(0, steps)
    columns = {n: read(group, n, rows) for n in COLUMNS}
    generators = group["rng"].shape[0] if "rng" in group else 0  # type: ignore[union-attr]
    counts = {"batch": len(data), "fetch_rng": generators, "forward_rng": generators}
    if isinstance(data, StreamExamples):
        columns["row"], counts["row"] = read(group, "row", rows), data.contents
    check_columns(columns, counts, where)
    ids = data.ids if isinstance(data, StreamExamples) else read(group, "train").tolist()
    check_agreement(group, columns, where, ids=ids, penalty=penalty is not None)
    micros = _micros(group, columns, penalty is not None)
    changes = [row for row in (read(group, "settings") if "settings" in group else ()) if not row[0] >= steps]
    device = next(model.parameters()).device
    workload = Workload(
        model=_at_start(group, model),
        loss=loss,
        train=RecordedExamples(call, device),  # type: ignore[arg-type]
        test=None if test is None else whole_set(test, plain, key, device),  # type: ignore[arg-type]
        optimizer=rebuild_optimizer(about["optimizer"]),
        name=attrs["workload"],
        info=_named_classes(model, data, about["target_key"], class_names),
        train_ids=ids,
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
        random=bool((columns["forward_rng"] >= 0).any()),
        changing=tuple(changing),
        separable=about["separable"],
        scales=tuple((int(row[0]), float(row[-1])) for row in changes),
    )
    trajectory = Trajectory(group, workload, Step(workload, source=source))
    check_opened(trajectory, where, source.rounds)
    trajectory.attrs = {**attrs, "examples_compared": known.examples}
    if test is not None:
        end, there = trajectory.evaluated(trajectory.steps), trajectory.workload_at(trajectory.steps)
        refuse_random_evaluation(there)
        refuse_kept_weights(there)
        refuse_other_shapes(there)
        trajectory.attrs = {**trajectory.attrs, **there.judge(end.theta).attrs()}
    sample = attrs["fingerprint"]["training data"]
    trajectory.unchanged = watched(known, data, trajectory.step, sample)
    return trajectory


def _at_start(group: zarr.Group, model: nn.Module) -> nn.Module:
    """A copy of the model as it was at the recorded state 0: its weights, what it trained, and its modes.
    Weights that are frozen are the model's own."""
    attrs: dict[str, Any] = dict(group.attrs)
    trained, training = {n for n, _ in attrs["fingerprint"]["parameters"]}, set(attrs["tape"]["training"])
    own = copy_model(model, frozen(model, trained))
    for name, p in own.named_parameters():
        p.requires_grad_(name in trained)
    set_modes(own, {name: name in training for name, _ in own.named_modules()})
    theta = torch.from_numpy(read(group, "theta", slice(0, 1))[0])
    put_back(dict(own.named_parameters()), Layout.of(own).split(theta))
    return own


def _named_classes(
    model: nn.Module, data: Any, target_key: str, given: Sequence[str] | None
) -> dict[str, Any]:
    """`info` with what the classes are called: as given, or as the data set or the model says; empty if none.

    A data set says so by `classes`, as those of torchvision do, or by `features` of its target, as those of
    Hugging Face do; a model by `config.id2label`. Behind a `Subset` is the data set that it is of.
    """
    found: Any = given
    for _ in range(8):
        if found is not None or data is None:
            break
        found, features = getattr(data, "classes", None), getattr(data, "features", None)
        if found is None and isinstance(features, Mapping):
            each = (getattr(features.get(key), "names", None) for key in (target_key, "label"))
            found = next((names for names in each if names), None)
        data = getattr(data, "dataset", None)
    named = getattr(getattr(model, "config", None), "id2label", None)
    if found is None and isinstance(named, Mapping) and sorted(named) == list(range(len(named))):
        words = [named[k] for k in range(len(named))]
        found = None if words == [f"LABEL_{k}" for k in range(len(words))] else words
    listed = isinstance(found, Sequence) and not isinstance(found, str)
    return {"classes": [str(name) for name in found]} if listed else {}


def _micros(
    group: zarr.Group, columns: Mapping[str, np.ndarray], penalty: bool
) -> Callable[[int], list[Micro]]:
    """The micro-batches of a step; generator states are read from the store when needed.

    `penalty`: each ends with a slot that is no example's.
    """
    batch, part, kept = columns["batch"], columns["part"], columns.get("row")
    fetched, forwarded = columns["fetch_rng"], columns["forward_rng"]

    @lru_cache(maxsize=64)
    def generators(number: int) -> bytes | None:
        return None if number < 0 else read(group, "rng", slice(number, number + 1))[0].tobytes()

    def micros(t: int) -> list[Micro]:
        found = []
        for k in range(int(part[t].max()) + 1):
            places = np.flatnonzero((part[t] == k) & (batch[t] >= 0))
            slots = slice(int(places[0]), int(places[-1]) + 1 + penalty)
            rng = generators(fetched[t, k]), generators(forwarded[t, k])
            mine = None if kept is None else kept[t, places].tolist()
            found.append(Micro(slots, batch[t, places].tolist(), *rng, mine))
        return found

    return micros


def whole_set(
    test: Any, collate: Callable[[list[Any]], Any], key: int | str | None, device: torch.device,
    name: str = "test",
) -> Batch:  # fmt: skip
    """A test set as one batch: a batch as it is, a data set collated, a DataLoader's data set by its own
    collation. `key`: the entry that numbers the examples of a batch, if there is one. `name`: what the user
    calls the set."""
    if (place := find_loader(test)) is not None:
        test, collate = place.loader.dataset, place.loader.collate_fn
    advice, empty = f"a batch of tensors, as in {name}=(x, y), or a data set", "one without examples"
    if isinstance(test, Tensor | Mapping) or (
        isinstance(test, tuple) and all(isinstance(x, Tensor) for x in test)
    ):
        batch: Batch = on_device(test, device)
        if any(x.shape[:1] == (0,) for x in tensors_of(batch)):
            raise InputError(f"{name}: expected {advice}, got {empty}")
        return batch
    if isinstance(test, tuple | list) and any(isinstance(x, np.ndarray) for x in test):
        raise InputError(f"{name}: expected {advice}, got arrays of numpy; make tensors: torch.from_numpy(x)")
    if isinstance(test, list) and test and all(isinstance(x, Tensor) for x in test):
        raise InputError(f"{name}: expected {advice}, got a list of tensors, which could be either")
    if isinstance(test, str) or not (hasattr(test, "__len__") and hasattr(test, "__getitem__") and len(test)):
        got = empty if hasattr(test, "__len__") and not isinstance(test, str) else type(test).__name__
        raise InputError(f"{name}: expected {advice}, got {got}")
    with fixed():
        batch = fetch(test, collate, range(len(test)), capture())
    return on_device(batch if key is None else without(batch, key), device)
