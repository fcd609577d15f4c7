"""Leaving out parts of examples (tokens, boxes, fields), or as many parts as whole examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from influencekit._effects.selection import extremes
from influencekit._trajectory.by_part import by_part
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.by_part import scores_by_part
from influencekit.errors import InputError
from influencekit.evaluation.retraining import random_sets
from influencekit.interfaces import Estimator, Query
from influencekit.windows import Window

__all__ = ["LeftOut", "examples_left_out", "parts_left_out"]


class LeftOut(NamedTuple):
    """What is left out of a run: `random(sizes, seed)` gives masks [set, total] of sets of these sizes, and
    `chosen(row, k, side)` the mask [total] of the k that have the largest scores on this side. `influence` is
    [estimator, query, window, ...], of which `row` is one; `run` is what is trained again."""

    run: Trajectory
    total: int
    influence: np.ndarray
    random: Callable[[Sequence[int], tuple[int, ...]], np.ndarray]
    chosen: Callable[[np.ndarray, int, int], np.ndarray]


def examples_left_out(trajectory: Trajectory, scores: xr.Dataset) -> LeftOut:
    """The examples of a run."""
    n = trajectory.workload.n_train
    influence = scores.influence.values.astype(np.float64)
    return LeftOut(trajectory, n, influence, lambda ks, seed: random_sets(n, ks, seed), extremes)


def parts_left_out(
    trajectory: Trajectory,
    query: Query,
    scores: xr.Dataset,
    estimators: Mapping[str, Estimator],
    windows: Sequence[Window],
) -> dict[str, LeftOut]:
    """{"part": parts one by one, "example": as many parts in whole examples}, both of the run by part.

    Whole examples are taken by their score a part, or at random, as many as come nearest to the number of
    parts, one at least. Errors: scores without their estimators; a loss that does not tell parts apart.
    """
    if not estimators:
        raise InputError("qld: parts=true asks the estimators about parts; pass estimators=, not scores=")
    run = by_part(trajectory)
    number, again, labels = run.found.number.cpu().numpy(), run.retrained(), scores.sizes["query"]
    names = scores.estimator.values.tolist()
    each = [scores_by_part(trajectory, query, estimators[n], windows, labels)[0] for n in names]
    by_parts = np.stack([x.double().cpu().numpy() for x in each])
    there, total = number >= 0, run.found.total
    counts = there.sum(1)
    by_example = scores.influence.values.astype(np.float64) / np.maximum(counts, 1)

    def whole(order: np.ndarray, k: int) -> np.ndarray:
        """The mask [part] of the first examples in this order that have about k parts."""
        order = order[counts[order] > 0]
        sizes = counts[order].cumsum()
        some = order[: max(1, int(np.abs(sizes - k).argmin()) + 1)]
        mask = np.zeros(total, dtype=bool)
        mask[number[some][there[some]]] = True
        return mask

    def at_random(ks: Sequence[int], seed: tuple[int, ...]) -> np.ndarray:
        generator = np.random.default_rng(seed)
        return np.stack([whole(generator.permutation(len(counts)), k) for k in ks])

    def best(row: np.ndarray, k: int, side: int) -> np.ndarray:
        return whole(np.argsort(np.where(np.isnan(row), np.inf, -side * row), kind="stable"), k)

    parts = by_parts[..., there]
    return {
        "part": LeftOut(again, total, parts, lambda ks, seed: random_sets(total, ks, seed), extremes),
        "example": LeftOut(again, total, by_example, at_random, best),
    }
