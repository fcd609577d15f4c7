"""Scores of the parts of every training example, such as its tokens."""

from collections.abc import Iterator, Sequence

import torch
import xarray as xr
from torch import Tensor

from influencekit._trajectory.by_part import by_part
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.own_parts import scores_of
from influencekit.errors import DivergedError, InputError
from influencekit.interfaces import Claim, Contributions, Estimator, Query
from influencekit.registry import label
from influencekit.windows import Window

__all__ = ["as_examples", "finite", "require_parts", "run_by_part", "scores_by_part"]


def require_parts(estimator: Estimator) -> None:
    """Errors: an estimator that does not tell parts apart."""
    if Claim.PARTS not in estimator.claims:
        raise InputError(f"{label(estimator)} does not tell parts of an example apart; use dit or loo")


def run_by_part(trajectory: Trajectory, estimator: Estimator) -> tuple[Trajectory, Tensor]:
    """The run whose examples are parts, as this estimator takes it, and `number` [train, part] of each part
    in it, -1 where there is none. Cost: a training run where the estimator retrains."""
    require_parts(estimator)
    run = by_part(trajectory)
    return (run.retrained() if Claim.EXACT in estimator.claims else run), run.found.number


def scores_by_part(
    trajectory: Trajectory, query: Query, estimator: Estimator, windows: Sequence[Window], labels: int
) -> tuple[Tensor, Trajectory]:
    """Scores [query, window, train, part], NaN where there is no part, and the run that was asked.

    Errors: parts that are in other places in training than when their example is looked at by itself.
    """
    run, number = run_by_part(trajectory, estimator)
    try:
        scores, _ = scores_of(run, query, estimator, windows, labels)
    except DivergedError:
        by_part(trajectory).explain()
        raise
    found = scores.new_full((*scores.shape[:2], *number.shape), torch.nan)
    found[..., number >= 0] = scores
    return found, run


def finite(trajectory: Trajectory, found: Iterator[Contributions]) -> Iterator[Contributions]:
    """The same, if they are numbers. Errors: the parts are in other places in training; what diverges."""
    for some in found:
        if not bool(some.values.isfinite().all()):
            by_part(trajectory).explain()
            raise DivergedError("the contributions of parts grew beyond floating point; record in float64")
        yield some


def as_examples(scores: xr.Dataset) -> xr.Dataset:
    """Scores by part as scores of so many examples, named `ID[part]`; parts that are not there left out."""
    flat = scores.influence.stack(one=("train", "part"))
    there = flat.notnull().any(("query", "window")).values
    names = [f"{train}[{part}]" for train, part in flat.one.values[there]]
    influence = flat.transpose("query", "window", "one").values[..., there]
    dims = ("query", "window", "train")
    rest = scores.drop_dims("part").drop_vars(["train", "label"], errors="ignore")
    return rest.assign(influence=(dims, influence, scores.influence.attrs)).assign_coords(train=names)
