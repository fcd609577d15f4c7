"""The scores by which sets are chosen: of every chooser, fold of trusted examples and run."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from influencekit._trajectory.fingerprint import digest
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.curate.folds import Folds, PartLosses
from influencekit._verbs.curate.kept_run import KeptRun
from influencekit._verbs.estimate import estimate
from influencekit._verbs.results import by_label, intercept_of
from influencekit.errors import InputError
from influencekit.interfaces import Claim, Estimator
from influencekit.progress import track
from influencekit.registry import listed

__all__ = ["MEAN", "Scores", "choosers_of", "combined", "scores_of_run"]

MEAN = "mean"  # among the choosers: the mean of all others


class Scores(NamedTuple):
    """`influence` [fold, chooser, train] on the mean loss of each fold, `intercept` [fold, chooser], and what
    the estimators say of themselves."""

    influence: np.ndarray
    intercept: np.ndarray
    cautions: list[str]


def choosers_of(choosers: Estimator | str | Sequence[Estimator | str]) -> tuple[dict[str, Estimator], bool]:
    """{label: estimator}, and whether their mean is asked for as well. Errors: none, the same twice, a mean
    of fewer than two."""
    given = listed("choosers", choosers)
    rest = [one for one in given if not (isinstance(one, str) and one == MEAN)]
    found = by_label("choosers", rest) if rest else {}
    if len(rest) < len(given) and len(found) < 2:
        raise InputError("choosers: 'mean' is that of the others, of which it needs two, as in dit,if,mean")
    return found, len(rest) < len(given)


def scores_of_run(
    run: Trajectory, methods: Mapping[str, Estimator], folds: Folds, kept: KeptRun | None
) -> Scores:
    """What every chooser says of the mean loss of each fold of the run's test set.

    Scores by which the query is not used are no effects on it, so their intercept, and with it every sum, is
    NaN. Those that retrain (`Claim.EXACT`) are taken from `kept` where they are there.
    """
    part = torch.from_numpy(folds.part).to(run.workload.device)
    query = PartLosses(part, folds.count)
    influence, intercept, cautions = [], [], []
    for name, method in track(methods.items(), "choosers", len(methods)):
        which = f"scores-{digest([name, folds.part.tolist()])}"
        mine = kept if kept is not None and Claim.EXACT in method.claims else None
        found = mine and mine.scores(which)
        if found is None:
            result = estimate(run, query, method)
            start = intercept_of(result).values[:, 0]
            if str(method.notes(run).get("query", "")).startswith("not used"):
                start = np.full(start.shape, np.nan)
            found = result.influence.values[:, 0].astype(np.float64), start
            cautions.append(str(result.attrs.get("caution", "")))
            if mine is not None:
                mine.keep_scores(which, *found)
        influence.append(found[0])
        intercept.append(found[1])
    return Scores(np.stack(influence, 1), np.stack(intercept, 1), cautions)


def combined(every: Sequence[Scores], folds: Folds, mean: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scores [run, group, chooser, train] by which each group chooses for each run, and their intercepts
    [run, group, chooser].

    Of the folds that choose, the mean; of several runs, the mean over the others, and over all of them for
    the final sets, whom no fold judges. `mean` adds a chooser: the mean of all, each divided by its root mean
    square, whose sums are no effects.
    """
    each, starts = (
        np.einsum("gf,rf...->rg...", folds.weights, np.stack(x))
        for x in zip(*(s[:2] for s in every), strict=True)
    )
    if mean:
        size = np.sqrt(np.nanmean(each**2, -1, keepdims=True))
        together = (each / np.where(size > 0, size, 1)).mean(2, keepdims=True)
        each = np.concatenate([each, together], 2)
        starts = np.concatenate([starts, np.full((*starts.shape[:2], 1), np.nan)], 2)
    runs, total = len(each), (each.mean(0), starts.mean(0))
    if runs > 1:
        others = [
            (whole[None] * runs - x) / (runs - 1) for whole, x in zip(total, (each, starts), strict=True)
        ]
        final = folds.groups[()]
        for whole, x in zip(total, others, strict=True):
            x[:, final] = whole[final]
        each, starts = others
    return each, starts
