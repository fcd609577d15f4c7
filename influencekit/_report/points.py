"""Test examples, the worst first, and the training examples that made them so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from influencekit._report.belonging import check_points
from influencekit._report.contents import Show, contents_and_range
from influencekit._report.pictures import Range
from influencekit._report.predictions import judged
from influencekit._report.record import Point
from influencekit._report.scores import check_scores, span_of
from influencekit._training.batch import select
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.curate.trusted import tested_on
from influencekit._verbs.estimate import estimate
from influencekit._verbs.results import class_name, windows_of
from influencekit.errors import InputError
from influencekit.queries import TestLosses
from influencekit.registry import make

__all__ = ["MOST", "linked", "points_of", "scored_points"]

MOST = 200  # test examples on the page
_LINKS = 10  # of each
_PIECE = 256  # test examples that the model sees at once


def test_ids(workload: Workload) -> list[Any]:
    """The test examples' own ids."""
    return list(workload.test_ids or range(workload.n_test))


def scored_points(
    run: Trajectory, scores: xr.Dataset, points: int | xr.Dataset | None
) -> xr.DataArray | None:
    """Scores [query, train] of test examples, the dimension query being positions in the test set.

    `points`: how many of the worst, or scores by `test-losses`, or None: those of `scores`, if they are such.
    Cost: of a number, the estimator's own for so many queries. Errors: no test set, an estimator that cannot
    be made again from its name.
    """
    if isinstance(points, xr.Dataset):
        linking = _by_position(run, check_scores(run, points, "report: points"), "points")
        check_points(scores, points)
        return linking
    if points is None:
        alike = str(scores.attrs.get("query")) == "test-losses"
        return _by_position(run, scores, "scores") if alike else None
    if points == 0:
        return None
    if run.workload.test is None:
        raise InputError("report: points are test examples, and this run was opened without a test set")
    rows = _worst(run, points)
    window, words = span_of(scores)
    try:
        method = make("estimator", str(scores.attrs["estimator"]))
    except (InputError, KeyError) as error:
        raise InputError(
            f"report: points={points} needs the estimator again, and {scores.attrs.get('estimator')!r} is no "
            "name of one; pass points=estimate(run, 'test-losses', estimator)"
        ) from error
    some = tested_on(run, select(run.workload.test, rows))
    found = estimate(some, TestLosses(), method, windows_of(scores) if window is None else [window])
    return _joined(found, window is not None).assign_coords(query=rows.cpu().numpy())


def _by_position(run: Trajectory, scores: xr.Dataset, who: str) -> xr.DataArray:
    places = {str(name): k for k, name in enumerate(test_ids(run.workload))}
    named = [str(q) for q in scores["query"].values.tolist()]
    if odd := [name for name in named if name not in places]:
        raise InputError(
            f"report: {who}: expected scores by test-losses, whose queries are test examples, got {odd[0]!r}"
        )
    found = _joined(scores, span_of(scores)[0] is not None)
    return found.assign_coords(query=[places[name] for name in named])


def _joined(scores: xr.Dataset, added: bool) -> xr.DataArray:
    influence = scores.influence.astype(np.float64)
    over = influence.sum("window", skipna=False) if added else influence.mean("window", skipna=False)
    return over.transpose("query", "train")


def _worst(run: Trajectory, count: int) -> Tensor:
    theta = run.evaluated(run.last).theta
    with torch.no_grad():
        losses = run.workload_at(run.last).losses(theta, run.workload.test)
    return losses.nan_to_num(torch.inf).argsort(descending=True, stable=True)[:count].sort().values


def linked(scores: xr.DataArray | None) -> dict[int, list[int]]:
    """{test position: positions of the training examples with the ten largest scores, by size}."""
    if scores is None:
        return {}
    found = {}
    for position, row in zip(scores["query"].values.tolist(), scores.values, strict=True):
        order = np.argsort(-np.nan_to_num(np.abs(row), nan=-1), kind="stable")[:_LINKS]
        found[int(position)] = [int(k) for k in order if np.isfinite(row[k]) and row[k] != 0]
    return found


def points_of(
    run: Trajectory, scores: xr.DataArray | None, place: dict[int, int], show: Show, names: Any,
    within: Range | None,
) -> tuple[Point, ...]:  # fmt: skip
    """The points, the largest loss first; `place`: {position of an example: its place on the page}; `within`:
    what is black and white in the page's pictures."""
    if scores is None:
        return ()
    workload, rows = run.workload, torch.as_tensor(scores["query"].values.copy(), device=run.workload.device)
    losses, predictions, _ = judged(run, [select(workload.test, part) for part in rows.split(_PIECE)])
    order = np.argsort(-np.nan_to_num(losses, nan=np.inf), kind="stable")[:MOST]
    some = select(workload.test, rows[torch.from_numpy(order.copy()).to(rows.device)])
    ids, labels = test_ids(workload), _labels(workload, some, len(order))
    own = show if callable(show) or isinstance(show, str) else None
    looks, _ = contents_and_range([some], [ids[int(rows[k])] for k in order], own, names, within)
    links, found = linked(scores), []
    for at, k in enumerate(order.tolist()):
        position = int(rows[k])
        pairs = [(place[t], float(scores.values[k, t])) for t in links[position] if t in place]
        loss = float(losses[k]) if np.isfinite(losses[k]) else None
        found.append(
            Point(str(ids[position]), labels[at], predictions[k], loss, tuple(pairs), looks[at])
        )  # fmt: skip
    return tuple(found)


def _labels(workload: Workload, batch: Any, count: int) -> Sequence[str | None]:
    target: Any = workload.calls.target(batch)
    if not isinstance(target, Tensor) or target.numel() != count or target.is_complex():
        return [None] * count
    values = target.detach().reshape(-1).tolist()
    if all(float(v).is_integer() for v in values):
        return [class_name(int(v), workload.info) for v in values]
    return [f"{v:.4g}" for v in values]
