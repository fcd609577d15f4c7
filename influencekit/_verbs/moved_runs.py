"""Scores of a run and of moved runs, and the sums over chosen examples on runs that did not choose them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from influencekit._arguments import moved_fraction, whole_number
from influencekit._effects.repeated import Moved
from influencekit._effects.retrain import Weighting
from influencekit._effects.selection import Sum, crossfitted, extremes, held_out, icc, shrunk
from influencekit._effects.sliced import asked_of, session_for
from influencekit._effects.sums import selected_verdict, worst_window
from influencekit._executors.slices import Slice
from influencekit._trajectory.code_key import code_key
from influencekit._trajectory.fingerprint import digest
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.by_part import to_retrain
from influencekit._verbs.estimate import estimate
from influencekit._verbs.results import intercept_of
from influencekit.errors import InputError
from influencekit.estimators.loo import retraining_effects
from influencekit.interfaces import Estimator, Query
from influencekit.progress import track
from influencekit.registry import label, resolve
from influencekit.windows import Window

_GIVEN = "by their ids"

__all__ = ["check_runs", "moved_scores", "sums_of_moved_runs"]


def check_runs(runs: int | None, fraction: float) -> None:
    """`runs` counts the recorded one. Errors: fewer than two moved ones, which give no interval; a fraction
    that moves nothing, or everything."""
    if runs is not None:
        whole_number("runs", runs, 3)
    moved_fraction("moved", fraction)


def moved_scores(
    trajectory: Trajectory,
    query: Query,
    methods: Mapping[str, Estimator],
    windows: Sequence[Window],
    runs: int,
    fraction: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [run, estimator, query, window, train] of the moved ones of so many runs, and the intercepts
    [run, estimator, query, window] of their sums. Cost: a training run and the estimators, for each."""
    each = _each(trajectory, query, [*methods.values()], windows, runs, fraction)
    return np.stack([one.scores.values for one in each]), np.stack([one.intercept.values for one in each])


def sums_of_moved_runs(
    trajectory: Trajectory,
    query: Query,
    estimator: Estimator | str | xr.Dataset,
    scores: xr.Dataset,
    positions: np.ndarray,
    retrained: np.ndarray,
    windows: Sequence[Window],
    runs: int,
    fraction: float,
    alone: Sequence[np.ndarray] | None = None,
    parts: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `remove` adds about the examples (or parts) at `positions`: variables, and attrs.

    `retrained` [query, window] is the effect of removing them together from the recorded run; `alone`, where
    it is known, the score of the strongest example and the effect of removing that one, [query, window] each.
    Errors: a moved run whose examples have other parts.
    """
    if isinstance(estimator, xr.Dataset):
        estimator = _remade(estimator)
    method: Estimator = resolve("estimator", estimator)
    named = digest(scores.train.values.tolist()) if parts else None
    others = _each(trajectory, query, [method], windows, runs, fraction, np.sort(positions), named)
    every = [_values(scores), *((one.scores.values[0], one.intercept.values[0]) for one in others)]
    truth = [one.retrained.values for one in others]
    each, intercept = (np.stack([one[k] for one in every]) for k in (0, 1))
    known: np.ndarray = np.isfinite(each).all((0, 1, 2))  # an estimator may leave examples out
    mask = np.isin(np.arange(len(known)), positions)[known]
    each = each[..., known]
    sums = each @ mask.astype(np.float64) + intercept  # [run, query, window]
    found, rule = _sum_on_others(each, intercept, mask)
    joint = np.stack(truth)
    dims = ("query", "window")
    variables = {
        "estimate_crossfit": (dims, found.value),
        "estimate_shrunk": (dims, shrunk(each, mask) + intercept.mean(0)),
        **{name: (dims, getattr(found, name)) for name in ("low", "high", "run_low", "run_high")},
        "icc": (dims, icc(each)),
        "estimate_runs": (("run", *dims), sums[1:]),
        "retrained_runs": (("run", *dims), joint),
    }
    mean, _ = _sum_on_others(each.mean(1, keepdims=True), intercept.mean(1, keepdims=True), mask)
    worst = worst_window(sums[0].mean(0), retrained.mean(0))
    said = selected_verdict(
        len(positions), runs - 1, sums[0].mean(0)[worst], [float(x[0, worst]) for x in mean[:3]],
        sums[1:].mean((0, 1))[worst], joint.mean((0, 1))[worst], float(retrained.mean(0)[worst]),
        chosen=rule != _GIVEN, alone=None if alone is None else tuple(each.mean(0)[worst] for each in alone),
    )  # fmt: skip
    return variables, {"runs": runs, "moved": fraction, "chosen": rule, "verdict_runs": said}


def _each(
    trajectory: Trajectory, query: Query, methods: Sequence[Estimator], windows: Sequence[Window],
    runs: int, fraction: float, removed: np.ndarray | None = None, named: str | None = None,
) -> list[xr.Dataset]:  # fmt: skip
    """What `_of_one` gives of each moved run, here or each as a slice on an executor."""
    moves = [Moved(fraction, number) for number in range(1, runs)]
    given = query, methods, windows, removed, named
    if (session := session_for(trajectory)) is None:
        return [_of_one(trajectory, move, *given) for move in track(moves, "moved runs", runs - 1)]
    asked = {
        "what": "moved", **asked_of(trajectory, query, windows), "estimators": [*map(label, methods)],
        "code": code_key(methods), "removed": None if removed is None else digest([removed]),
        **({"parts": named} if named else {}),
    }  # fmt: skip
    slices = [Slice({**asked, "move": [fraction, move.seed]}, _of_one, (move, *given)) for move in moves]
    found = dict(session.of(trajectory, "moved runs", slices))
    return [found[number] for number in range(len(moves))]


def _of_one(
    trajectory: Trajectory, move: Moved, query: Query, methods: Sequence[Estimator],
    windows: Sequence[Window], removed: np.ndarray | None, named: str | None,
) -> xr.Dataset:  # fmt: skip
    """`scores` [estimator, query, window, train] of a moved run, `intercept` of their sums, and the effect of
    removing the examples at these positions together, `retrained` [query, window]. `named`: of parts, and the
    digest of their names. Errors: it has other parts."""
    other = move.again(trajectory)
    scores = [estimate(other, query, method, windows, parts=bool(named)) for method in methods]
    if named:
        again = [to_retrain(other, one) for one in scores]
        other, scores = again[0][0], [one for _, one in again]
        if digest(scores[0].train.values.tolist()) != named:
            raise InputError(
                f"parts: examples have other parts in moved run {move.seed} than in the recorded one; let "
                "weights and parts not depend on the model"
            )
    each = [_values(one) for one in scores]
    dims = "estimator", "query", "window", "train"
    found = xr.Dataset(
        {
            "scores": (dims, np.stack([one[0] for one in each])),
            "intercept": (dims[:3], np.stack([one[1] for one in each])),
        }
    )
    if removed is not None:
        together = [Weighting(torch.from_numpy(removed))]
        truth = retraining_effects(other, query, together, windows)[..., 0].double().cpu().numpy()
        found["retrained"] = dims[1:3], truth
    return found


def _values(scores: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Scores [query, window, train], and the intercept [query, window] of their sums."""
    influence = scores.influence.transpose("query", "window", "train")
    intercept = intercept_of(scores).transpose("query", "window")
    return influence.values.astype(np.float64), intercept.values.astype(np.float64)


def _sum_on_others(scores: np.ndarray, intercept: np.ndarray, mask: np.ndarray) -> tuple[Sum, str]:
    """The sum over `mask` [train] of scores [run, query, window, train] and their `intercept` [run, query,
    window], of which the first run chose, on other runs; and in words how it was chosen.

    Where these are the k lowest or highest of the first run, by the mean over queries and windows, every run
    chooses its own k in turn; else the other runs sum over these very ones.
    """
    by = scores.mean((1, 2))
    for side, word in ((-1, "lowest"), (1, "highest")):
        masks = extremes(by, int(mask.sum()), side)
        if (masks[0] == mask).all():
            pairs = np.einsum("at,bqwt->abqw", masks.astype(np.float64), scores)
            return crossfitted(pairs + intercept), f"the {mask.sum()} {word} by the mean score"
    return held_out(scores[1:] @ mask.astype(np.float64) + intercept[1:]), _GIVEN


def _remade(scores: xr.Dataset) -> str:
    """The estimator of ready scores, by its name. Errors: one that has no text form."""
    name = str(scores.attrs.get("estimator"))
    try:
        resolve("estimator", name)
    except InputError as error:
        raise InputError(
            f"runs= scores other runs, too, and these ready scores are of {name}, which cannot be made from "
            "its name; pass the estimator itself"
        ) from error
    return name
