"""What a correlation or a cosine does not see: each a figure with its limits and a sentence of warning."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr

from influencekit._trajectory.store import read
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.trust.precision import deviation
from influencekit.errors import InfluenceKitError
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.registry import make
from influencekit.windows import Window

__all__ = ["Check", "as_variables", "checks"]


class Check(NamedTuple):
    """A figure that should lie between `low` and `high`, and what is said elsewhere; NaN is unknown."""

    name: str
    value: float
    low: float
    high: float
    sentence: str

    @property
    def warning(self) -> str:
        """The sentence; empty where the figure is within its limits, or unknown."""
        return "" if math.isnan(self.value) or self.low <= self.value <= self.high else self.sentence


def checks(
    trajectory: Trajectory, query: Query, scores: xr.Dataset, estimator: Estimator | None, found: xr.Dataset,
    windows: Sequence[Window],
) -> list[Check]:  # fmt: skip
    """All checks, of scores and of what `by_retraining` or `by_smoothness` found of them."""
    scale, finite = _worst(found.scale.values), _finite(scores)
    signal, learnt = _signal(trajectory, query, found, windows), _learnt(trajectory)
    precision = _precision(trajectory, query, estimator)
    every = [
        Check(
            "scale", scale, 0.5, 2.0,
            f"retraining shows {scale:.2g} times what the scores say: take none of them for an amount",
        ),
        Check(
            "finite", finite, 1.0, 1.0,
            f"{100 * (1 - finite):.2g} % of the scores are NaN or infinite: an adjoint overflows, so ask for "
            "shorter windows, or lower the learning rate",
        ),
        Check(
            "signal", signal, 10.0, math.inf,
            f"effects are only {signal:.2g} times what rounding does: scale the loss or its logits up, or "
            "record in float64",
        ),
        Check(
            "learnt", learnt, 0.05, math.inf,
            f"the training loss fell by {100 * learnt:.2g} %: a run that has learnt nothing is easy to "
            "predict, so a high figure says little",
        ),
        Check(
            "precision", precision, 0.0, 1e-4,
            f"the sweep differs from float64 by {precision:.1g}: switch TF32 off, or record in float64",
        ),
    ]  # fmt: skip
    if "noise" not in found:
        every.insert(1, _sum(scores, found))
    return every


def as_variables(every: Sequence[Check]) -> dict[str, Any]:
    """The columns [check] of a result."""
    return {
        "check_value": ("check", [each.value for each in every]),
        "check_low": ("check", [each.low for each in every]),
        "check_high": ("check", [each.high for each in every]),
        "check_warning": ("check", [each.warning for each in every]),
    }


def _worst(scale: np.ndarray) -> float:
    """The slope that is furthest from 1, as a factor; one that is not above 0 is further than any other."""
    known = scale[~np.isnan(scale)]
    if not len(known):
        return math.nan
    with np.errstate(divide="ignore"):
        return float(known[np.abs(np.log(np.maximum(known, 0))).argmax()])


def _finite(scores: xr.Dataset) -> float:
    """The fraction of the scores that are finite; what is NaN throughout was left out on request."""
    values = scores.influence.transpose("query", "window", "train").values
    asked = ~np.isnan(values).all((0, 1))
    return float(np.isfinite(values[..., asked]).mean()) if asked.any() else 0.0


def _sum(scores: xr.Dataset, found: xr.Dataset) -> Check:
    """How far the sum of the scores of the few is from what being without them does to the query, relative to
    the sizes of these scores. The worst window, over all queries."""
    sizes = np.abs(scores.influence.sel(train=found.train)).where(found.random).sum("train")
    off = np.abs(found.retrained - found.estimate).sum("query", skipna=False)
    ratio = (off / sizes.sum("query")).values
    value = float(np.nanmax(ratio)) if np.isfinite(ratio).any() else math.nan
    return Check(
        "sum", value, 0.0, 0.5,
        f"without a few examples the query changes otherwise than their scores say, by {value:.2g} of their "
        "sizes: training is smooth, and these scores are not right",
    )  # fmt: skip


def _signal(trajectory: Trajectory, query: Query, found: xr.Dataset, windows: Sequence[Window]) -> float:
    """The median size of retrained effects over what rounding does: the smallest of all windows.

    Rounding: the last digit of the query's values, and, where it was measured, what retraining with weights
    that differ from 1 in their last digits changes.
    """
    smallest = math.nan
    for k, window in enumerate(windows):
        effects = found.retrained.isel(window=k)
        if "weight" in found:
            effects = effects.where(found.random.isel(window=k))
        sizes = np.abs(effects.values[np.isfinite(effects.values)])
        if not len(sizes):
            continue
        noise = 0.0 if "noise" not in found else np.nan_to_num(float(found.noise[k]))
        ratio = float(np.median(sizes)) / max(noise, _last_digit(trajectory, query, window))
        smallest = ratio if math.isnan(smallest) else min(smallest, ratio)
    return smallest


def _last_digit(trajectory: Trajectory, query: Query, window: Window) -> float:
    """The last digit of the query's values where the window reads them: root mean square over queries."""
    values = []
    for t in window.evaluations(trajectory.steps):
        theta = trajectory.evaluated(t).theta
        with torch.no_grad():
            found = query.at(trajectory.workload_at(t), theta)(theta)
        values.append(float(found.norm()) / len(found) ** 0.5)
    return torch.finfo(theta.dtype).eps * math.hypot(*values) + torch.finfo(theta.dtype).tiny


def _learnt(trajectory: Trajectory) -> float:
    """The fraction by which the training loss fell, from the first tenth of the steps to the last; NaN where
    losses are not above 0, or were not stored."""
    if "loss" not in trajectory.group:
        return math.nan
    last = trajectory.last  # losses are stored from step 0 on, wherever states begin
    some = max(1, last // 10)
    ends = [read(trajectory.group, "loss", slice(*part)) for part in ((0, some), (last - some, last))]
    valid = [trajectory.plan.indices[slice(*part)].numpy() >= 0 for part in ((0, some), (last - some, last))]
    first, end = (float(x[v].mean()) if v.any() else math.nan for x, v in zip(ends, valid, strict=True))
    return 1 - end / first if first > 0 and end >= 0 else math.nan


def _precision(trajectory: Trajectory, query: Query, estimator: Estimator | None) -> float:
    """Of a first-order sweep; NaN for other estimators."""
    if estimator is None or Claim.EXACT in estimator.claims or Claim.ADDITIVE not in estimator.claims:
        return math.nan
    try:
        return deviation(trajectory, query, getattr(estimator, "curvature", "hessian"))
    except InfluenceKitError:
        return math.nan


def estimator_of(scores: xr.Dataset) -> Estimator | None:
    """The estimator that ready scores name; None where no such name is registered."""
    try:
        return make("estimator", str(scores.attrs.get("estimator")))
    except InfluenceKitError:
        return None
