"""Effects of retraining: here, or in slices on an executor, where the verb that runs was given one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from influencekit._effects.retrain import (
    Chunk,
    Strategy,
    Weighting,
    changes,
    chunks_of,
    spans,
    strategy_of,
)
from influencekit._executors import ambient
from influencekit._executors.session import Session
from influencekit._executors.slices import Slice
from influencekit._trajectory.code_key import code_key
from influencekit._trajectory.fingerprint import digest
from influencekit._trajectory.identity import identity
from influencekit._trajectory.trajectory import Trajectory
from influencekit.interfaces import Query
from influencekit.registry import label
from influencekit.windows import Window

__all__ = ["asked_of", "effects_of", "run_key", "session_for"]

_LEAST, _MOST = 4, 256  # models of a slice, where they are trained one by one; slices of all

Chunks = Mapping[tuple[int, int], Sequence[Chunk]]


def session_for(trajectory: Trajectory) -> Session | None:
    """What retraining of this run is handed to. None: it is done here, since no verb was given an executor,
    or since the run is one that was made of another (moved, with other labels), which no worker can open."""
    found: Session | None = ambient.session() if "fingerprint" in trajectory.attrs else None
    return found


def run_key(trajectory: Trajectory) -> dict[str, Any]:
    """Which run slices are of, in JSON: its settings and contents, its beginning, its end, its test set, and
    what of it queries read."""
    attrs, ending = trajectory.attrs, trajectory.ending
    return {
        "workload": trajectory.workload.name,
        "run": identity(trajectory),
        "settings": digest([attrs["fingerprint"], attrs.get("contents"), attrs.get("tape")]),
        "average": None if ending is None else [str(ending.average), digest([*ending[:2]])],
    }


def asked_of(trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> dict[str, Any]:
    """What effects are of, in JSON: the run, the query, the windows."""
    return {
        **run_key(trajectory),
        "query": [label(query), code_key(query)],
        "labels": digest([str(each) for each in query.labels(trajectory.workload)]),
        "windows": [[w.start, w.stop, w.removal] for w in windows],
    }


def effects_of(
    trajectory: Trajectory, query: Query, weightings: Sequence[Weighting], windows: Sequence[Window],
    strategy: Strategy = "auto",
) -> Tensor:  # fmt: skip
    """Effects [query, window, weighting] of training with other weights; not checked to be finite.

    Slices are cut along the chunks of models that are trained together, and are the same whoever trains them.
    Cost: `retrained`.
    """
    if (session := session_for(trajectory)) is None:
        return _summed(trajectory, query, weightings, windows, strategy)
    strategy = strategy_of(trajectory, strategy)  # type: ignore[assignment]  # batch or loop
    slices, places = list[Slice](), list[tuple[Tensor, Tensor]]()
    for absent, members in spans(windows, trajectory.steps).items():
        own = [windows[k] for k in members]
        when = sorted({t for window in own for t in window.evaluations(trajectory.steps)})
        asked = asked_of(trajectory, query, own)
        for some in _grouped(chunks_of(trajectory, weightings, absent, when, strategy)):
            runs = [k for chunk in some for k in chunk.members]
            mine = [weightings[k] for k in runs]
            new = {k: number for number, k in enumerate(runs)}
            chunks = [Chunk(chunk.start, [new[k] for k in chunk.members]) for chunk in some]
            weights = digest([[len(each.positions), *each] for each in mine])
            of = {"what": "effects", **asked, "weights": weights, "chunks": chunks}
            slices.append(Slice(of, _slice, (query, mine, own, {absent: chunks})))
            places.append((torch.tensor(members)[:, None], torch.tensor(runs)))
    out = _zeros(trajectory, query, windows, weightings)
    for number, found in session.of(trajectory, "retraining", slices):
        windows_of, runs_of = places[number]
        out[:, windows_of, runs_of] = torch.from_numpy(found.effects.values).to(out)
    return out


def _slice(
    trajectory: Trajectory, query: Query, weightings: Sequence[Weighting], windows: Sequence[Window],
    some: Chunks,
) -> xr.Dataset:  # fmt: skip
    """The effects of some chunks, in a worker."""
    effects = _summed(trajectory, query, weightings, windows, some=some)
    return xr.Dataset({"effects": (("query", "window", "weighting"), effects.cpu().numpy())})


def _summed(
    trajectory: Trajectory, query: Query, weightings: Sequence[Weighting], windows: Sequence[Window],
    strategy: Strategy = "auto", some: Chunks | None = None,
) -> Tensor:  # fmt: skip
    out = _zeros(trajectory, query, windows, weightings)
    for change in changes(trajectory, query, weightings, windows, strategy, some):
        for window, sign in change.signs.items():
            out[:, window, change.models.members] += sign * change.values.to(out)
    return out


def _zeros(
    trajectory: Trajectory, query: Query, windows: Sequence[Window], weightings: Sequence[Weighting]
) -> Tensor:
    workload = trajectory.workload
    shape = (len(query.labels(workload)), len(windows), len(weightings))
    return torch.zeros(shape, dtype=workload.dtype, device=workload.device)


def _grouped(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Neighbouring chunks in one slice, so that it is worth a message: at least four models, and 256 slices
    of all at most. How many workers there are does not count: another number finds the same slices."""
    size = max(_LEAST, math.ceil(sum(len(chunk.members) for chunk in chunks) / _MOST))
    found, models = list[list[Chunk]](), size
    for chunk in chunks:
        if models >= size:
            found.append([])
            models = 0
        found[-1].append(chunk)
        models += len(chunk.members)
    return found
