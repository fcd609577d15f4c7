"""Scores of the parts of every training example, such as its tokens."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from influencekit._arguments import short, whole_number
from influencekit._training.ids import positions_among
from influencekit._trajectory.by_part import by_part
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.own_parts import scores_of
from influencekit._verbs.results import examples
from influencekit.errors import DivergedError, InputError
from influencekit.interfaces import Claim, Contributions, Estimator, Query
from influencekit.registry import label
from influencekit.windows import Window

__all__ = [
    "as_examples", "finite", "pairs_in", "positions_of_parts", "require_parts", "run_by_part",
    "scores_by_part", "to_retrain",
]  # fmt: skip


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


def as_examples(scores: xr.Dataset, there: Any = None) -> xr.Dataset:
    """Scores by part as scores of so many examples, named `ID[part]`, with the coordinates `id` and `part`.

    `there` [train, part]: which parts there are; without it those that have a score.
    """
    influence = scores.influence.transpose("query", "window", "train", "part")
    if there is None:
        there = influence.notnull().any(("query", "window")).values
    rows, parts = np.nonzero(there)
    ids = scores.train.values[rows]
    names = [f"{train}[{part}]" for train, part in zip(ids.tolist(), parts.tolist(), strict=True)]
    values = influence.values[..., rows, parts]
    rest = scores.drop_dims("part").drop_vars(["train", "label"], errors="ignore")
    rest = rest.assign(influence=(("query", "window", "train"), values, scores.influence.attrs))
    return rest.assign_coords(train=names, id=("train", ids), part=("train", parts))


def to_retrain(trajectory: Trajectory, scores: xr.Dataset) -> tuple[Trajectory, xr.Dataset]:
    """The run whose examples are parts, trained again, and scores by part as those of its examples.

    Cost: a training run, once. Errors: scores of other parts than the run has.
    """
    run = by_part(trajectory)
    there = run.found.there.cpu().numpy()
    if scores.sizes["part"] != there.shape[1]:
        raise InputError(
            f"these scores are not of this run: they are of {scores.sizes['part']} parts an example, which "
            f"has {there.shape[1]} here; estimate them anew"
        )
    return run.retrained(), as_examples(scores, there)


def pairs_in(ids: Any) -> list[tuple[Any, Any]] | None:
    """Rows (id, part) that name parts; None where these are ids of examples. Errors: some of each."""
    if isinstance(ids, Tensor | np.ndarray) and ids.ndim == 2 and ids.shape[1] == 2:
        ids = ids.tolist()
    if not isinstance(ids, list | tuple) or not any(isinstance(each, list | tuple) for each in ids):
        return None
    if wrong := [each for each in ids if not isinstance(each, list | tuple) or len(each) != 2]:
        raise InputError(f"parts to remove: expected rows (id, part) only, got {short(wrong[0])} among them")
    return [(example, part) for example, part in ids]


def positions_of_parts(trajectory: Trajectory, pairs: Sequence[tuple[Any, Any]]) -> Tensor:
    """Positions, ascending, of parts (id, part) in the run whose examples are parts.

    Errors: an example or a part that is not there; one that is named twice.
    """
    own, number = examples(trajectory.workload), by_part(trajectory).found.number
    found = set[int]()
    for row, (_, part) in zip(positions_among([name for name, _ in pairs], own), pairs, strict=True):
        column = whole_number("a part to remove", part)
        position = int(number[row, column]) if 0 <= column < number.shape[1] else -1
        if position < 0:
            known = (number[row] >= 0).nonzero()[:, 0].tolist()
            raise InputError(f"example '{own[row]}' has no part {column}; its parts are {short(known)}")
        if position in found:
            raise InputError(f"part {column} of example '{own[row]}' is named twice; name each part once")
        found.add(position)
    return torch.tensor(sorted(found))
