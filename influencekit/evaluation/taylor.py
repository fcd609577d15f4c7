"""Taylor slope: is a score the derivative of the run with respect to its example's weight?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import xarray as xr

from influencekit._arguments import check_seed, whole_number
from influencekit._effects.retrain import Strategy, Weighting
from influencekit._labelled import dataset_of
from influencekit._statistics import format_statistic, of_estimators, several_seeds
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.record import record
from influencekit.errors import InputError
from influencekit.estimators.loo import retraining_effects
from influencekit.evaluation.retraining import draw_seed
from influencekit.evaluation.scoring import require_estimators, scored
from influencekit.interfaces import Claim, Estimator, Evaluation, Query, Table
from influencekit.plot.style import line_look, mean_text, new_figure
from influencekit.windows import Window

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TaylorSlope"]

_ABOVE = 30  # a remainder counts where it is so many times what rounding alone does
_SMOOTH = 0.2  # a slope this near 2 is that of a second-order remainder


@dataclass(frozen=True)
class TaylorSlope(Evaluation):
    """Taylor slope: is a score the derivative of the run with respect to its example's weight?

        remainder(h) = | q(weights 1 - h d) - q - h <scores, d> |          h = largest ... smallest

    `slope` [estimator] is the power of h at which the remainder falls: 2 = the scores are the derivative.
    The directions d [train] are random, and the run is trained again at every h; the norm is over directions,
    queries and windows. A wrong formula leaves a remainder that falls with slope 1, however well its scores
    rank. `remainder` [estimator, h]; `weights` [direction, train]: the d; `noise`: what rounding alone does
    to the effects, measured by weights that differ from 1 in their last digits, and at least the last digit
    of the query's values. The slope is that between the two smallest h (`slope_from`, `slope_to`) whose
    remainder is thirty times that, NaN where there are not two. `smooth_below` [estimator]: the largest h
    below which every slope is within .2 of 2. A network with corners (ReLU) jumps wherever a weight change
    carries a unit over its corner, so there the fall begins late: first order is right in the limit only.

    In single precision rounding leaves too few h, so the run is recorded and scored again in float64 from
    the same parameters and batches (`precision` = double; a taped run is taken as it is, and so is any run
    with `own`). Attrs: `dtype`. Cost: 13 training runs a direction, in one batch where batching is faster,
    and for `double` a run and the scores anew. Estimators that do not claim FIRST_ORDER are left out.
    Errors: none of them claims it; scores without their estimators (it scores another run).

    Example:

        >>> import influencekit as ik
        >>> from influencekit.evaluation import TaylorSlope
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> (found,) = ik.evaluate(run, TaylorSlope(directions=1)).values()
        >>> round(found.slope.item())
        2
    """

    directions: int = 3
    largest: float = 0.1
    smallest: float = 1e-7
    seed: int = 0
    precision: Literal["double", "own"] = "double"
    strategy: Strategy = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("directions", self.directions, 1)
        check_seed("seed", self.seed)
        if not 0 < self.smallest < self.largest <= 1:
            raise InputError(f"expected 0 < smallest < largest <= 1, got {self.smallest} and {self.largest}")

    def check(self, workload: Workload, estimators: Mapping[str, Estimator]) -> None:
        require_estimators(estimators)
        if all(map(self.refuses, estimators.values())):
            raise InputError(
                f"taylor: none of {', '.join(estimators)} claims first order, so there is no slope to "
                "measure; leave it out, or add dit"
            )

    def refuses(self, estimator: Estimator) -> str:
        return "" if Claim.FIRST_ORDER in estimator.claims else "does not claim first order"

    def run(
        self, trajectory: Trajectory, query: Query, scores: xr.Dataset, estimators: Mapping[str, Estimator],
        windows: Sequence[Window], folder: Path | None = None,
    ) -> xr.Dataset:  # fmt: skip
        workload = trajectory.workload
        if self.precision == "double" and workload.dtype != torch.float64 and "tape" not in trajectory.attrs:
            workload = workload.to(dtype=torch.float64)
            trajectory = record(workload).with_ending(trajectory.ending)
        scores = scored(trajectory, query, estimators, windows)
        count = 1 + round(2 * np.log10(self.largest / self.smallest))
        steps = np.geomspace(self.largest, self.smallest, max(2, count))
        generator = np.random.default_rng(draw_seed(trajectory, self.seed))
        d = torch.from_numpy(generator.standard_normal((self.directions, workload.n_train)))
        tiny = 4 * torch.finfo(workload.dtype).eps
        everyone = torch.arange(workload.n_train)

        def weighted(h: float) -> list[Weighting]:
            return [Weighting(everyone, (1 - h * one).to(workload.theta0)) for one in d]

        runs = [run for h in (*steps, tiny) for run in weighted(h)]
        found = retraining_effects(trajectory, query, runs, windows, self.strategy).double().cpu()
        found = found.unflatten(-1, (len(steps) + 1, self.directions))  # [query, window, h, direction]
        noise = max(
            float(found[:, :, -1].norm()), self.directions**0.5 * _resolution(trajectory, query, windows)
        )
        first = (
            torch.tensor(scores.influence.values, dtype=torch.float64) @ d.T
        )  # [estimator, query, window, d]
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
            coords={"estimator": list(estimators), "h": steps},
            attrs={
                "directions": self.directions, "seed": self.seed,
                "dtype": str(workload.dtype).removeprefix("torch."),
            },
        )  # fmt: skip

    def figures(self, result: xr.Dataset) -> dict[str, Any]:
        names = ["slope", "slope_from", "slope_to", "smooth_below"]
        return {"estimators": of_estimators(_own(result), names)}

    def table(self, result: xr.Dataset) -> Table:
        found, rows = self.figures(result)["estimators"], {}
        several = several_seeds(result)
        for name, row in found.items():
            ends = [row[key]["mean"] for key in ("slope_from", "slope_to", "smooth_below")]
            cells = ["-" if math.isnan(h) else f"{h:.0e}" for h in ends]
            rows[name] = [format_statistic(row["slope"], several), *cells]
        return Table.of(
            f"Taylor slope in {result.attrs['dtype']}: 2 = the scores are the derivative by the weights, "
            "1 = they are not",
            ["slope", "from h", "to h", "2 below h"],
            rows,
        )

    def plot(self, result: xr.Dataset) -> Figure:
        """What first order leaves over, by the size h of the weight change, on logarithmic axes.

        A line an estimator (the geometric mean over seeds) with its slope; dotted: slopes 2 and 1; grey: what
        rounding alone does.
        """
        figure = new_figure(5.4, 4.2)
        ax = figure.subplots()
        h, names = _own(result).h.values, result.estimator.values.tolist()
        top = 0.0
        for j, name in enumerate(names):
            left = result.remainder.sel(estimator=name).transpose(..., "h").values.reshape(-1, len(h))
            curve = np.exp(np.log(np.maximum(left, 1e-300)).mean(0))
            top = max(top, float(curve[0]))
            slope = mean_text(result.slope.sel(estimator=name))
            ax.plot(h, curve, marker=".", label=f"{name}, slope {slope}", **line_look(j, len(names)))
        low = float(result.noise.mean())
        for power in (1, 2):
            ax.plot(h, top * (h / h[0]) ** power, color="0.7", linewidth=0.8, linestyle=":", zorder=0)
        if low > 0:
            ax.axhspan(low / 10, low, color="0.85", zorder=0)
            ax.set_ylim(low / 10, 5 * top)
        ax.set(xscale="log", yscale="log", xlabel="weight change h", ylabel="remainder of first order")
        ax.legend(frameon=False)
        return figure


def _own(result: Any) -> xr.Dataset:
    """The result itself. Errors: not that of this evaluation."""
    names = ("slope", "slope_from", "slope_to", "smooth_below", "remainder", "noise", "h", "estimator")
    return dataset_of("taylor", "a result of taylor", result, names, ("dtype",), ("estimator", "h"))


def _resolution(trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> float:
    """The last digit of the query's values at the states at which the windows read it."""
    values = []
    for t in {t for window in windows for t in window.evaluations(trajectory.steps)}:
        theta = trajectory.evaluated(t).theta
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
