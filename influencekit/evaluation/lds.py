"""The linear datamodeling score: do sums of scores rank random subsets as retraining does?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from influencekit import plot
from influencekit._arguments import check_seed, whole_number
from influencekit._effects.retrain import Strategy
from influencekit._labelled import dataset_of
from influencekit._statistics import format_statistic, over_seeds, several_seeds
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InputError
from influencekit.evaluation.bootstrap import LEAST, check_interval, interval, ranked_alike
from influencekit.evaluation.retraining import draw_seed, random_sets, set_effects
from influencekit.evaluation.scoring import sums_over
from influencekit.interfaces import Estimator, Evaluation, Query, Table
from influencekit.plot.style import figure_of
from influencekit.windows import Window

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LDS"]


@dataclass(frozen=True)
class LDS(Evaluation):
    """Linear datamodeling score: do sums of scores rank random subsets as retraining does?

        LDS = Spearman over subsets S_1 ... S_m of ( sum of the scores of those left out of S_i,
                                                     q(run on S_i) - q(run) )

    Each S_i holds the `fraction` of the examples, drawn at random; the run is trained again on it, on the
    recorded batches with their divisors, under each window's own removal. Summing over those left out, not
    over S_i, follows the sign of scores (removal minus full) and ranks alike. Scores for sets of this size
    (`dit:centre=0.5` for halves) rank them better than others do; `predicted` has their intercept in it.
    `seed` draws the subsets, other ones for every seed of a workload.

    Result: `lds` [estimator, query, window], in [-1, 1]; 1 = ranked as retraining does. `lds_low` and
    `lds_high` are the bootstrap interval (BCa) at `level` from so many `resamples` of the subsets, NaN with
    fewer than ten of them; `mean`, `mean_low`, `mean_high` [estimator, window] are of the mean over queries,
    each resample of all queries at once. Also `predicted` [estimator, query, window, subset], `retrained`
    [query, window, subset], `left_out` [subset, train], and of that mean `bootstrap` [resample, estimator,
    window] and, without each subset, `jackknife` [subset, estimator, window]. NaN where either side is
    constant.

    Cost: m training runs, divided by what batching gains; with a folder for the retrained models, m times the
    parameters on disk: a killed call continues, another query costs no retraining, and a larger m adds to
    what is there. Errors: subsets that leave none or all out, a folder of another run. Source: Park et al.
    2023 (TRAK), arXiv 2303.14186; Ilyas et al. 2022.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.evaluation import LDS
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.evaluate(run, LDS(m=12), "test-losses", ["dit", "loo"])["lds:m=12"]
        >>> found.lds.dims, found.predicted.sizes["subset"]
        (('estimator', 'query', 'window'), 12)
    """

    folder_options: ClassVar[tuple[str, ...]] = ("fraction", "seed")

    m: int = 100
    fraction: float = 0.5
    seed: int = 0
    resamples: int = 1000
    level: float = 0.95
    strategy: Strategy = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("m", self.m, 3)
        check_seed("seed", self.seed)
        check_interval(self.resamples, self.level)

    def check(self, workload: Workload, estimators: Mapping[str, Estimator]) -> None:
        self._left_out(workload.n_train)

    def run(
        self, trajectory: Trajectory, query: Query, scores: xr.Dataset, estimators: Mapping[str, Estimator],
        windows: Sequence[Window], folder: Path | None = None,
    ) -> xr.Dataset:  # fmt: skip
        n, seed = trajectory.workload.n_train, draw_seed(trajectory, self.seed)
        left_out = random_sets(n, [self._left_out(n)] * self.m, seed)
        drawn = {"fraction": self.fraction, "seed": list(seed)}
        retrained = set_effects(trajectory, query, left_out, windows, self.strategy, folder, drawn)
        predicted = sums_over(scores, left_out)
        dims = ("estimator", "query", "window")
        found = ranked_alike(predicted, retrained, self.resamples, self.level, seed)
        return xr.Dataset(
            {
                "lds": (dims, found["spearman"]),
                "lds_low": (dims, found["low"]),
                "lds_high": (dims, found["high"]),
                "mean": (("estimator", "window"), found["mean"]),
                "mean_low": (("estimator", "window"), found["mean_low"]),
                "mean_high": (("estimator", "window"), found["mean_high"]),
                "bootstrap": (("resample", "estimator", "window"), found["bootstrap"]),
                "jackknife": (("subset", "estimator", "window"), found["jackknife"]),
                "predicted": ((*dims, "subset"), predicted),
                "retrained": (("query", "window", "subset"), retrained),
                "left_out": (("subset", "train"), left_out),
            },
            coords=scores.coords,
            attrs={
                "m": self.m, "fraction": self.fraction, "seed": self.seed, "resamples": self.resamples,
                "level": self.level,
            },
        )  # fmt: skip

    def figures(self, result: xr.Dataset) -> dict[str, Any]:
        """`lds` of each estimator, with `low` and `high`: the interval of its mean over windows and seeds."""
        names = ("lds", "mean", "bootstrap", "jackknife", "estimator")
        dataset_of("lds", "a result of lds", result, names, ("level", "m", "fraction"), ("estimator",))
        result = result if "seed" in result.dims else result.expand_dims("seed")
        level, m = float(result.attrs["level"]), int(result.attrs["m"])
        found = {}
        for name in result.estimator.values.tolist():
            one = result.sel(estimator=name)
            score = over_seeds(one["mean"])
            again = one.bootstrap.mean(("seed", "window"), skipna=True).values
            each = one.jackknife.mean("window", skipna=True)  # every seed has subsets of its own
            left_out = (each - each.mean("subset")).values.ravel()
            low, high = interval(np.array(score["mean"]), again, left_out, level, m)
            found[name] = {"lds": {**score, "low": float(low), "high": float(high)}}
        return {"estimators": found}

    def table(self, result: xr.Dataset) -> Table:
        found, rows = self.figures(result), {}
        several, m = several_seeds(result), result.attrs["m"]
        for name, row in found["estimators"].items():
            score = row["lds"]
            ends = (format_statistic({"mean": score[end], "std": 0.0}, False) for end in ("low", "high"))
            rows[name] = [format_statistic(score, several), *ends]
        title = (
            f"Linear datamodeling score, {m} random subsets of {100 * result.attrs['fraction']:g} % and "
            f"their {100 * result.attrs['level']:g} % bootstrap interval"
        )
        few = f"fewer than {LEAST} subsets give no interval; lds:m=50 does"
        return Table.of(title, ["lds", "from", "to"], rows, notes=[few] if m < LEAST else ())

    def plot(self, result: xr.Dataset) -> Figure:
        return figure_of(plot.predicted(result))

    def _left_out(self, n: int) -> int:
        """How many of n examples are not in a subset. Errors: none of them, or all."""
        size = n - round(self.fraction * n) if 0 < self.fraction < 1 else 0
        if not 0 < size < n:
            raise InputError(
                f"fraction must leave some of {n} examples in a subset and some out of it, got "
                f"{self.fraction:g}"
            )
        return size
