"""Leave-k-out: how far a sum of scores foretells the removal of k examples at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import xarray as xr

from influencekit import plot
from influencekit._arguments import check_seed, whole_number
from influencekit._effects.retrain import Strategy
from influencekit._effects.selection import held_out, shrunk
from influencekit._labelled import dataset_of
from influencekit._statistics import format_statistic, of_estimators, several_seeds
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.moved_runs import check_runs, moved_scores
from influencekit.evaluation.bootstrap import check_interval, ranked_alike
from influencekit.evaluation.retraining import draw_seed, random_sets, set_effects, sizes
from influencekit.evaluation.scoring import require_estimators, sums_over
from influencekit.interfaces import Estimator, Evaluation, Query, Table
from influencekit.metrics import pearson, spearman
from influencekit.plot.style import figure_of
from influencekit.windows import Window

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LeaveKOut"]

_OF_RUNS = {
    "spearman_shrunk": "spearman, shrunk",
    "size_shrunk": "retrained / shrunk",
    "covered": "in the interval of runs",
}
_SHOWN = {"pearson": "pearson", "spearman": "spearman", "size": "retrained / predicted"}


@dataclass(frozen=True)
class LeaveKOut(Evaluation):
    """Leave-k-out: do sums of scores foretell the removal of random groups of k examples, and up to which k?

    `k` is 1, 4, 16, ... up to a quarter of the examples unless you say; of each k there are so many `groups`,
    drawn with `seed`, others for every seed of a workload.

    Result: `pearson`, `spearman` with `spearman_low`, `spearman_high` [estimator, query, window, k] over the
    groups of that size (the interval is NaN with fewer than ten of them); `predicted` [estimator, query,
    window, k, group], `retrained` [query, window, k, group]. `size` [estimator, query, window, k] is the
    slope of retrained on predicted through the origin: 1 = the sums are right in size too, below 1 = they are
    too large. The rest is as for `LDS`: this is the same for small sets. Of scores for sets (`dit:centre=A`)
    the sums have their intercept, and are meant for k of about (1 - A) times the number of examples.

    Random groups are not chosen by their scores, so their sums have no winner's curse and nothing is
    cross-fitted. With `runs` of 3 or more, these and moved runs (as in `remove`) say how much of the sums is
    noise of the run: `shrunk` [estimator, query, window, k, group], the sums predicted from all runs by the
    ICC over groups, with `spearman_shrunk` and `size_shrunk`; `low` and `high`, where the sum of one more run
    would lie; `covered` [estimator, query, window, k], the fraction of retrained effects in there: below
    `level`, the sums are wrong by more than the noise of runs (NaN where all are 0). Cost: runs - 1
    trainings, the estimators on each.

    Cost: k times groups training runs, divided by what batching gains. Errors: as for `LDS`.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.evaluation import LeaveKOut
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> (found,) = ik.evaluate(run, LeaveKOut(k=(1, 4), groups=10)).values()
        >>> found.pearson.dims
        ('estimator', 'query', 'window', 'k')
    """

    folder_options: ClassVar[tuple[str, ...]] = ("k", "seed")

    k: tuple[int, ...] | None = None
    groups: int = 64
    seed: int = 0
    resamples: int = 1000
    level: float = 0.95
    strategy: Strategy = "auto"
    runs: int | None = None
    moved: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        check_runs(self.runs, self.moved)
        whole_number("groups", self.groups, 3)
        check_seed("seed", self.seed)
        check_interval(self.resamples, self.level)

    def check(self, workload: Workload, estimators: Mapping[str, Estimator]) -> None:
        sizes(workload.n_train, self.k)
        if self.runs:
            require_estimators(estimators)

    def run(
        self, trajectory: Trajectory, query: Query, scores: xr.Dataset, estimators: Mapping[str, Estimator],
        windows: Sequence[Window], folder: Path | None = None,
    ) -> xr.Dataset:  # fmt: skip
        n, seed = trajectory.workload.n_train, draw_seed(trajectory, self.seed)
        ks = sizes(n, self.k)
        left_out = random_sets(n, list(ks) * self.groups, seed)  # more groups come behind
        drawn = {"k": list(ks), "seed": list(seed)}
        effects = set_effects(trajectory, query, left_out, windows, self.strategy, folder, drawn)
        sums = sums_over(scores, left_out)
        retrained, predicted = (
            x.reshape(*x.shape[:-1], self.groups, len(ks)).swapaxes(-1, -2) for x in (effects, sums)
        )
        each = [
            ranked_alike(predicted[..., j, :], retrained[..., j, :], self.resamples, self.level, seed)
            for j in range(len(ks))
        ]
        both = np.broadcast_to(retrained, predicted.shape)
        slope, more = _slope(predicted, both), dict[str, Any]()
        if self.runs:
            others = moved_scores(trajectory, query, estimators, windows, self.runs, self.moved)
            groups = left_out.reshape(self.groups, len(ks), n).astype(np.float64)
            on_others = np.einsum("reqwt,gkt->reqwkg", others[0], groups) + others[1][..., None, None]
            more = _over_runs(np.concatenate([predicted[None], on_others]), both, self.level)
        dims = ("estimator", "query", "window", "k")
        return xr.Dataset(
            {
                "pearson": (dims, pearson(torch.tensor(predicted), torch.tensor(both)).numpy()),
                "spearman": (dims, np.stack([one["spearman"] for one in each], -1)),
                "spearman_low": (dims, np.stack([one["low"] for one in each], -1)),
                "spearman_high": (dims, np.stack([one["high"] for one in each], -1)),
                "size": (dims, slope),
                "predicted": ((*dims, "group"), predicted),
                "retrained": ((*dims[1:], "group"), retrained),
                **{name: ((*dims, "group")[: values.ndim], values) for name, values in more.items()},
            },
            coords={**scores.coords, "k": list(ks)},
            attrs={
                "groups": self.groups, "seed": self.seed, "resamples": self.resamples, "level": self.level
            },
        )  # fmt: skip

    def figures(self, result: xr.Dataset) -> dict[str, Any]:
        dataset_of(
            "leave-k-out", "a result of leave-k-out", result, (*_SHOWN, "k"), ("groups",), ("estimator", "k")
        )
        return {"k": result.k.values.tolist(), "estimators": of_estimators(result, list(_shown(result)))}

    def table(self, result: xr.Dataset) -> Table:
        found, several = self.figures(result), several_seeds(result)
        rows = {
            (name, word): [format_statistic(value, several) for value in row[figure]]
            for name, row in found["estimators"].items()
            for figure, word in _shown(result).items()
        }
        title = f"Leave-k-out, {result.attrs['groups']} random groups of every k"
        return Table.of(title, [f"k = {k}" for k in found["k"]], rows, ["estimator", "figure"])

    def plot(self, result: xr.Dataset) -> Figure:
        return figure_of(plot.predicted(result))


def _shown(result: xr.Dataset) -> dict[str, str]:
    """{figure: its name in the table}."""
    return {**_SHOWN, **{name: word for name, word in _OF_RUNS.items() if name in result}}


def _slope(predicted: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """The slope [...] through the origin of effects on sums [..., group]; NaN where all sums are 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (predicted * retrained).sum(-1) / (predicted * predicted).sum(-1)
    return np.where(np.isfinite(slope), slope, np.nan)


def _over_runs(sums: np.ndarray, retrained: np.ndarray, level: float) -> dict[str, np.ndarray]:
    """What sums [run, estimator, query, window, k, group] of all runs add; none of them chose the groups."""
    each = shrunk(sums[..., None, :], np.eye(sums.shape[-1]))
    over = held_out(sums, level)
    covered = ((over.run_low <= retrained) & (retrained <= over.run_high)).mean(-1)
    covered = np.where(sums.any((0, -1)) | retrained.any(-1), covered, np.nan)  # 0 in [0, 0] says nothing
    both = torch.tensor(each).contiguous(), torch.tensor(retrained).contiguous()
    return {
        "shrunk": each,
        "low": over.run_low,
        "high": over.run_high,
        "spearman_shrunk": spearman(*both).numpy(),
        "size_shrunk": _slope(each, retrained),
        "covered": covered,
    }
