"""Verify: what a cheap estimator says of a few examples, beside exact retraining."""

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from influencekit._arguments import checked, whole_number
from influencekit._bars import with_progress
from influencekit._direction import Which, better_of, side, which_end
from influencekit._effects.retrain import Strategy, Weighting, strategy_of
from influencekit._executors.session import Workers
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import averaged_as
from influencekit._verbs.by_part import to_retrain
from influencekit._verbs.executor import with_executor
from influencekit._verbs.results import Windows, require_run
from influencekit._verbs.scored import attrs_of, coords_of, ordered, scored, values_at_ends
from influencekit.estimators.loo import retraining_effects
from influencekit.interfaces import Average, Estimator, Query
from influencekit.metrics import METRICS, agreement
from influencekit.registry import label, resolve
from influencekit.windows import Removal

__all__ = ["verify_top"]


@with_progress
@with_executor
@checked
def verify_top(
    trajectory: Trajectory,
    query: Query | str = "test-loss",
    estimator: Estimator | str | xr.Dataset = "dit",
    top: int = 20,
    which: Which | None = None,
    windows: Windows = None,
    removal: Removal = "global",
    strategy: Strategy = "auto",
    average: Average | str | Any = None,
    parts: bool = False,
    *,
    executor: Workers | str | Any = None,
) -> xr.Dataset:
    """The most harmful (or helpful) examples by an estimator, and what retraining without each of them shows.

    `estimator` may be the result of `estimate` on this run, which brings its windows. The examples are ranked
    by the mean over queries and windows, and are the coordinate `train`, in that order. `which` is "harmful"
    (unless you say) or "helpful", for a query that says which way is better (`Query.better`): for a loss the
    most harmful have the most negative scores, for a margin the most positive ones. Whatever the query,
    "lowers" (most negative first) and "raises" say what removal does to it; "lowers" is the default where
    neither way is better. The result has `estimate` and `retrained` [query, window, train], both as removal
    minus full; `before` [query, window], the query's value in the recorded run at the end of the window, and
    `after` = before + retrained; `agreement` [metric, query, window] of the two over these examples (NaN
    where it is undefined), and `same_sign`, the share of them of which the estimate has the sign right.
    `parts`: the same of parts of examples, as `estimate` has them: `train` is then "ID[part]", beside the
    coordinates `id` and `part`. `average`, `executor`: as of `estimate`.

    Sign: removal minus full. Cost: the estimate, and at most a training run for each of the examples, divided
    by what batching gains; of parts, a training run more. Errors: `top` below 1; "harmful" or "helpful" of a
    query that does not say which way is better; scores of another run or query.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.verify_top(run, top=3)
        >>> found.estimate.shape == found.retrained.shape == (1, 1, 3)
        True
    """
    require_run(trajectory)
    whole_number("top", top, 1)
    query = resolve("query", query)
    better = better_of(query)
    which = which_end(which, better, f"query {label(query)}")
    trajectory = averaged_as(trajectory, average, estimator)
    query, scores, among = scored(trajectory, query, estimator, windows, removal, parts)
    run = trajectory
    if parts:
        run, scores = to_retrain(trajectory, scores)
    positions = ordered(scores, side(which, better))[:top]
    truth = retraining_effects(run, query, [Weighting(torch.tensor([p])) for p in positions], among, strategy)
    found = scores.influence.isel(train=positions)
    which_parts = {n: ("train", found[n].values) for n in ("id", "part") if parts}
    before = values_at_ends(trajectory, query, among)
    return xr.Dataset(
        {
            "estimate": (("query", "window", "train"), found.values),
            "retrained": (("query", "window", "train"), truth.cpu().numpy()),
            "before": (("query", "window"), before.cpu().numpy()),
            "after": (("query", "window", "train"), (before[:, :, None] + truth).cpu().numpy()),
            "agreement": (("metric", "query", "window"), _agreement(found.values, truth)),
            "same_sign": (
                ("query", "window"),
                (np.sign(found.values) == np.sign(truth.cpu().numpy())).mean(-1),
            ),
        },
        coords={"metric": list(METRICS), **coords_of(scores, positions, among), **which_parts},
        attrs={**attrs_of(scores), "which": which, "strategy": strategy_of(run, strategy)},
    )


def _agreement(estimate: np.ndarray, truth: Tensor) -> np.ndarray:
    if truth.shape[-1] < 2:
        return np.full((len(METRICS), *truth.shape[:-1]), np.nan)
    found = agreement(torch.tensor(estimate).contiguous(), truth.cpu().contiguous())
    return found.movedim(-1, 0).numpy()
