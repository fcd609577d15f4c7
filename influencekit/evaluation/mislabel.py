"""Mislabel AUC: plant wrong labels, train on them, and see whether scores find them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import xarray as xr

from influencekit import plot
from influencekit._arguments import check_seed, real_number
from influencekit._direction import better_of, written
from influencekit._effects.labels import judge_all, labels_of
from influencekit._labelled import dataset_of
from influencekit._statistics import (
    format_percent,
    format_statistic,
    of_estimators,
    over_seeds,
    several_seeds,
)
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.changed_data import rerun_with
from influencekit._verbs.record import record
from influencekit.evaluation.detection import detection, flipped, flips, labelled
from influencekit.evaluation.scoring import require_estimators, scored
from influencekit.interfaces import Estimator, Evaluation, Query, Table
from influencekit.plot.style import figure_of
from influencekit.windows import Window

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MislabelAUC"]


@dataclass(frozen=True)
class MislabelAUC(Evaluation):
    """Mislabel AUC: flip a fraction of the training labels, train and score anew: do scores find the flips?

    `seed` draws the flips, others for every seed of a workload. Examples whose label the loss ignores, such
    as -100, have no part in it.

    Result: `auc` [estimator, query, window], the probability that a flipped example has a more harmful score
    than another one (a lower score of a loss, a higher one of a margin), chance is .5; `average_precision`,
    `found`, the curves `precision` and `recall` [.., k], all as in `detection`; `flipped` [train]; `accuracy`
    of the run on flipped labels. The control, which costs nothing: `control_auc` and `control_recall` [k] of
    ranking by the loss of each training example at the end of that run, largest first. Sensible for queries
    that say which way is better; of others it looks at those whose removal lowers the query.

    A taped run is trained again through its recorded steps. Cost: a training run, its tracing, and the
    estimators anew. Errors: labels that are no classes, scores without their estimators (it scores another
    run).

    Example:

        >>> import influencekit as ik
        >>> from influencekit.evaluation import MislabelAUC
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> (found,) = ik.evaluate(run, MislabelAUC(fraction=0.25)).values()
        >>> int(found.flipped.sum()), found.auc.dims
        (6, ('estimator', 'query', 'window'))
    """

    renamed_options: ClassVar[Mapping[str, str]] = {"share": "fraction"}

    fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        real_number("fraction", self.fraction, above=0, most=1)
        check_seed("seed", self.seed)

    def check(self, workload: Workload, estimators: Mapping[str, Estimator]) -> None:
        require_estimators(estimators)
        flips(workload, self.fraction, self.seed)

    def run(
        self, trajectory: Trajectory, query: Query, scores: xr.Dataset, estimators: Mapping[str, Estimator],
        windows: Sequence[Window], folder: Path | None = None,
    ) -> xr.Dataset:  # fmt: skip
        seed, workload = self.seed + trajectory.workload.seed, trajectory.workload
        if workload.fetches:  # a taped run: through its recorded steps
            changed, mask = flips(workload, self.fraction, seed)
            run = rerun_with(trajectory, changed)
        else:
            problem, mask = flipped(workload, self.fraction, seed)
            run = record(problem).with_ending(trajectory.ending)
        theta = run.evaluated(run.steps).theta
        better = written(better_of(query))
        there = labelled(workload)
        anew = scored(run, query, estimators, windows).influence.assign_attrs(better)
        found = detection(anew.isel(train=there), mask[there])
        losses = judge_all(run.workload_at(run.steps), theta, labels_of(run.workload)).losses
        control = detection(xr.DataArray(-losses.cpu().numpy()[there], dims="train"), mask[there])
        return found.assign(
            flipped=("train", mask),
            accuracy=float(run.attrs["accuracy"]),
            control_auc=control.auc,
            control_recall=control.recall,
        ).assign_attrs(
            {"share": self.fraction, "seed": self.seed, "corrupted": int(mask.sum()), **better}
        )  # the fraction is called share in results, since 0.1.0

    def figures(self, result: xr.Dataset) -> dict[str, Any]:
        names = ("accuracy", "auc", "average_precision", "found", "control_auc")
        dataset_of(
            "mislabel-auc", "a result of mislabel-auc", result, names, ("share", "corrupted"), ("estimator",)
        )
        return {
            "accuracy": over_seeds(result.accuracy),
            "estimators": of_estimators(result, ["auc", "average_precision", "found"]),
            "control": {"auc": over_seeds(result.control_auc)},
        }

    def table(self, result: xr.Dataset) -> Table:
        figures, several = self.figures(result), several_seeds(result)
        rows = {}
        for name, row in figures["estimators"].items():
            found = f"{row['found']['mean']:.1f}" + (f" ± {row['found']['std']:.1f}" if several else "")
            rows[name] = [*(format_statistic(row[n], several) for n in ("auc", "average_precision")), found]
        control = format_statistic(figures["control"]["auc"], several)
        rows["final training loss (control)"] = [control, "", ""]
        heads = ["auc", "average precision", f"found of {result.attrs['corrupted']}"]
        return Table.of(
            f"Mislabel AUC, {100 * result.attrs['share']:g} % of the labels flipped; accuracy then "
            f"{format_percent(figures['accuracy'], False)}",
            heads,
            rows,
        )

    def plot(self, result: xr.Dataset) -> Figure:
        return figure_of(plot.detection(result))
