"""Taylor slope: is a score the derivative of the run with respect to its example's weight?"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import xarray as xr

from influencekit.effects.retrain import Strategy, Weighting
from influencekit.errors import InputError
from influencekit.estimators.loo import retraining_effects
from influencekit.evaluation.retraining import check_at_least, draw_seed
from influencekit.evaluation.scoring import Estimators, estimators_of, score
from influencekit.interfaces import Claim, Query
from influencekit.registry import make
from influencekit.trajectory.trajectory import Trajectory
from influencekit.verbs.record import record
from influencekit.verbs.results import Windows
from influencekit.windows import Removal, Window

__all__ = ["taylor"]

_ABOVE = 30  # a remainder counts where it is so many times what rounding alone does
_SMOOTH = 0.2  # a slope this near 2 is that of a second-order remainder


def taylor(
    trajectory: Trajectory,
    query: Query | str = "test-loss",
    estimators: Estimators = ("dit",),
    windows: Windows = None,
    removal: Removal = "global",
    *,
    directions: int = 3,
    largest: float = 0.1,
    smallest: float = 1e-7,
    seed: int = 0,
    precision: Literal["double", "own"] = "double",
    strategy: Strategy = "auto",
) -> xr.Dataset:
    """The `slope` [estimator] at which the remainder of first order falls: 2 = the scores are the derivative.

        remainder(h) = | q(weights 1 - h d) - q - h <scores, d> |          h = largest ... smallest

    with random directions d [train], trained again at every h; the norm over directions, queries and
    windows, on the user's own run. A wrong formula leaves a remainder that falls with slope 1, however well
    its scores rank. `remainder` [estimator, h]; `weights` [direction, train]: the d; `noise`: what rounding
    alone does to the effects, measured by weights that differ from 1 in their last digits, and at least the
    last digit of the query's values. The slope is that between the two smallest h (`slope_from`, `slope_to`)
    whose remainder is thirty times that, NaN where there are not two. `smooth_below` [estimator]: the largest
    h below which every slope is within .2 of 2. A network with corners (ReLU) jumps wherever a weight change
    carries a unit over its corner, so there the fall begins late: first order is right in the limit only.

    In single precision rounding leaves too few h, so the run is recorded and scored again in float64 from
    the same parameters and batches (`precision` = double; a taped run is taken as it is, and so is any run
    with `own`). Attrs: `dtype`. Cost: 13 training runs a direction, in one batch where batching is faster,
    and for `double` a run and the scores anew. Errors: an estimator that does not claim FIRST_ORDER.
    """
    methods = estimators_of(estimators)
    for name, method in methods.items():
        if Claim.FIRST_ORDER not in method.claims:
            raise InputError(f"{name} does not claim first order, so it has no Taylor slope; leave it out")
    check_at_least("directions", directions, 1)
    if not 0 < smallest < largest <= 1:
        raise InputError(f"expected 0 < smallest < largest <= 1, got {smallest} and {largest}")
    query = make("query", query) if isinstance(query, str) else query
    workload = trajectory.workload
    if precision == "double" and workload.dtype != torch.float64 and "tape" not in trajectory.attrs:
        workload = workload.to(dtype=torch.float64)
        trajectory = record(workload)
    query, scores, chosen = score(trajectory, query, list(methods.values()), windows, removal)
    count = 1 + round(2 * np.log10(largest / smallest))
    steps = np.geomspace(largest, smallest, max(2, count))
    generator = np.random.default_rng(draw_seed(trajectory, seed))
    d = torch.from_numpy(generator.standard_normal((directions, workload.n_train)))
    tiny = 4 * torch.finfo(workload.dtype).eps
    everyone = torch.arange(workload.n_train)

    def weighted(h: float) -> list[Weighting]:
        return [Weighting(everyone, (1 - h * one).to(workload.theta0)) for one in d]

    runs = [run for h in (*steps, tiny) for run in weighted(h)]
    found = retraining_effects(trajectory, query, runs, chosen, strategy).double().cpu()
    found = found.unflatten(-1, (len(steps) + 1, directions))  # [query, window, h, direction]
    noise = max(float(found[:, :, -1].norm()), directions**0.5 * _resolution(trajectory, query, chosen))
    first = torch.tensor(scores.influence.values, dtype=torch.float64) @ d.T  # [estimator, query, window, d]
    size = torch.tensor(steps)[:, None]
    left = (found[None, :, :, :-1] - size * first[..., None, :]).movedim(3, 1).flatten(2).norm(dim=-1)
    rows = [_slope(steps, each, noise) for each in left.numpy()]
    slope, high, low, smooth = (list(column) for column in zip(*rows, strict=True))
    return xr.Dataset(
        {
            "slope": ("estimator", slope),
            "slope_from": ("estimator", high),
            "slope_to": ("estimator", low),
            "smooth_below": ("estimator", smooth),
            "remainder": (("estimator", "h"), left.numpy()),
            "noise": noise,
            "weights": (("direction", "train"), d.numpy()),
        },
        coords={"estimator": list(methods), "h": steps},
        attrs={"directions": directions, "seed": seed, "dtype": str(workload.dtype).removeprefix("torch.")},
    )


def _resolution(trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> float:
    """The last digit of the query's values at the states at which the windows read it."""
    values = []
    for t in {t for window in windows for t in window.evaluations(trajectory.steps)}:
        theta = trajectory.state(t).theta
        with torch.no_grad():
            values.append(query.at(trajectory.workload_at(t), theta)(theta).norm())
    return torch.finfo(theta.dtype).eps * float(torch.stack(values).norm())


def _slope(h: np.ndarray, left: np.ndarray, noise: float) -> tuple[float, float, float, float]:
    """Slope of log remainder by log h between the two smallest h that count; these two; and the largest h
    below which every step down has slope 2."""
    counts = left > _ABOVE * noise
    last = len(h) if counts.all() else int(np.argmin(counts))  # the first that rounding has reached
    if last < 2:
        return np.nan, np.nan, np.nan, np.nan
    each = np.diff(np.log(left[:last])) / np.diff(np.log(h[:last]))
    smooth = np.nan
    for k in range(len(each) - 1, -1, -1):
        if abs(each[k] - 2) > _SMOOTH:
            break
        smooth = float(h[k])
    return float(each[-1]), float(h[last - 2]), float(h[last - 1]), smooth
