"""Screen and verify: what a cheap estimator says of a few examples, or of a set, beside exact retraining."""

from collections.abc import Hashable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from influencekit.errors import DivergedError, InputError
from influencekit.interfaces import Estimator, Query
from influencekit.metrics import METRICS, agreement
from influencekit.pipeline import Windows, estimate, window_coords
from influencekit.registry import label, make
from influencekit.retrain import Strategy, Weighting, retrained, spans, strategy_of, window_effects
from influencekit.trajectory import Trajectory
from influencekit.windows import Removal, Window
from influencekit.workload import Workload

__all__ = ["ranked", "remove", "verify_top", "windows_of"]

Which = Literal["harmful", "helpful"]


def verify_top(
    trajectory: Trajectory,
    query: Query | str = "test-loss",
    estimator: Estimator | str | xr.Dataset = "dit",
    top: int = 20,
    which: Which = "harmful",
    windows: Windows = None,
    removal: Removal = "global",
    strategy: Strategy = "auto",
) -> xr.Dataset:
    """The most harmful (or helpful) examples by an estimator, and what retraining without each of them shows.

    `estimator` may be the result of `estimate` on this run, which brings its windows. The examples are ranked
    by the mean over queries and windows, `which` = harmful: most negative first, and are the coordinate
    `train`, in that order. The result has `estimate` and `retrained` [query, window, train], both as removal
    minus full; `before` [query, window], the query's value in the recorded run at the end of the window, and
    `after` = before + retrained; `agreement` [metric, query, window] of the two over these examples (NaN
    where it is undefined), and `same_sign`, the share of them of which the estimate has the sign right.

    Cost: the estimate, and at most a training run for each of the examples, divided by what batching gains.
    Errors: an estimator that is retraining itself; `top` below 1; scores of another run or query.
    """
    if top < 1:
        raise InputError(f"top must be at least 1, got {top}")
    if which not in ("harmful", "helpful"):
        raise InputError(f"which must be 'harmful' or 'helpful', got {which!r}")
    query, scores, chosen = scored(trajectory, query, estimator, windows, removal)
    positions = ranked(scores, which)[:top]
    truth = window_effects(
        trajectory, query, [Weighting(torch.tensor([p])) for p in positions], chosen, strategy
    )
    found = scores.influence.isel(train=positions)
    before = _values(trajectory, query, chosen)
    return xr.Dataset(
        {
            "estimate": (("query", "window", "train"), found.values),
            "retrained": (("query", "window", "train"), truth.cpu().numpy()),
            "before": (("query", "window"), before.cpu().numpy()),
            "after": (("query", "window", "train"), (before[:, :, None] + truth).cpu().numpy()),
            "agreement": (("metric", "query", "window"), _agreement(found.values, truth)),
            "same_sign": (
                ("query", "window"),
                (np.sign(found.values) == np.sign(truth.cpu().numpy())).mean(-1),
            ),
        },
        coords={"metric": list(METRICS), **_coords(scores, found.train.values, chosen)},
        attrs={**_attrs(scores), "which": which, "strategy": strategy_of(trajectory, strategy)},
    )


def remove(
    trajectory: Trajectory,
    query: Query | str = "test-loss",
    ids: Iterable[Hashable] = (),
    estimator: Estimator | str | xr.Dataset = "dit",
    windows: Windows = None,
    removal: Removal = "global",
) -> xr.Dataset:
    """What being without a whole set of examples does: the sum of their scores, and retraining without all.

    `ids` are the examples' own ids (`Workload.train_ids`; positions where there are none), in any order. The
    result has `influence` [query, window, train], the score of each; `estimate` [query, window], their sum,
    which is what first order says of the set; `retrained` [query, window]; `before` and `after` [query,
    window], the query's values at the end of the window (where a window of global removal starts later,
    `after` is before + retrained); `accuracy_before` and `accuracy_after` [window] there.

    Cost: the estimate and one training run. Batches keep their divisor: a step that loses all its examples
    has zero loss gradient, and weight decay and momentum still act. Errors: an id that no example has, none
    at all, a set that leaves nothing to train on.
    """
    workload, steps = trajectory.workload, trajectory.steps
    positions = positions_of(workload, ids)
    left = torch.ones(workload.n_train, dtype=torch.bool).index_fill_(0, positions, False)
    if not left[trajectory.plan.indices.clamp(min=0)][trajectory.plan.indices >= 0].any():
        raise InputError(
            f"these {len(positions)} examples are all that the run trains on; leave some of them in"
        )
    query, scores, chosen = scored(trajectory, query, estimator, windows, removal)
    before = _values(trajectory, query, chosen)
    truth, accuracy = torch.zeros_like(before), np.full((2, len(chosen)), np.nan)
    for absent, members in spans(chosen, steps).items():
        evaluations = {k: chosen[k].evaluations(steps) for k in members}
        when = sorted(set().union(*evaluations.values()))
        theta = {t: trajectory.state(t).theta for t in when}
        for models in retrained(trajectory, [Weighting(positions)], absent, when):
            theta[models.state] = models.theta[0]
        for k, signs in evaluations.items():
            for t, sign in signs.items():
                own, place = trajectory.state(t).theta, trajectory.workload_at(t)
                at = query.at(place, own)
                with torch.no_grad():
                    truth[:, k] += sign * (at(theta[t]) - at(own))
                if t == max(signs) and workload.test is not None:
                    accuracy[:, k] = place.accuracy(own), place.accuracy(theta[t])
    if not truth.isfinite().all():
        raise DivergedError(
            f"retraining without {len(positions)} examples gave NaN or infinity; lower the learning rate"
        )
    found = scores.influence.isel(train=positions.numpy())
    return xr.Dataset(
        {
            "influence": (("query", "window", "train"), found.values),
            "estimate": (("query", "window"), found.sum("train", skipna=False).values),
            "retrained": (("query", "window"), truth.cpu().numpy()),
            "before": (("query", "window"), before.cpu().numpy()),
            "after": (("query", "window"), (before + truth).cpu().numpy()),
            "accuracy_before": (("window",), accuracy[0]),
            "accuracy_after": (("window",), accuracy[1]),
        },
        coords=_coords(scores, found.train.values, chosen),
        attrs=_attrs(scores),
    )


def scored(
    trajectory: Trajectory,
    query: Query | str,
    estimator: Estimator | str | xr.Dataset,
    windows: Windows,
    removal: Removal,
) -> tuple[Query, xr.Dataset, list[Window]]:
    """The query, the scores and their windows. Errors: ready scores of another run or query."""
    query = make("query", query) if isinstance(query, str) else query
    if not isinstance(estimator, xr.Dataset):
        scores = estimate(trajectory, query, estimator, windows, removal)
        return query, scores, windows_of(scores)
    if windows is not None:
        raise InputError("the scores bring their own windows; give windows to estimate, or an estimator here")
    mine = {"query": label(query), "workload": trajectory.workload.name, "seed": trajectory.workload.seed}
    for name, value in mine.items():
        if estimator.attrs.get(name) != value:
            raise InputError(
                f"these scores are not of this run and query: {name} is {estimator.attrs.get(name)!r} in "
                f"them, {value!r} here; estimate them anew"
            )
    return query, estimator, windows_of(estimator)


def windows_of(scores: xr.Dataset) -> list[Window]:
    """The windows of a result of `estimate`."""
    columns = (scores[name].values.tolist() for name in ("start", "stop", "removal"))
    return [Window(*row) for row in zip(*columns, strict=True)]


def ranked(scores: xr.Dataset, which: Which = "harmful") -> list[int]:
    """Positions of the scored examples, the most harmful (or helpful) first, by the mean over the rest."""
    mean = scores.influence.mean(("query", "window"), skipna=False).values
    order = mean.argsort(kind="stable")
    order = order[np.isfinite(mean[order])].tolist()
    return order if which == "harmful" else order[::-1]


def positions_of(workload: Workload, ids: Iterable[Hashable]) -> Tensor:
    """Positions in the training set, ascending and each once, of examples named by their own ids.

    A text stands for the id that is written like it, so that ids may come from a file. Errors: as `remove`.
    """
    if isinstance(ids, str):
        raise InputError(f"expected a list of example ids, got the text {ids!r}")
    own: Sequence[Any] = workload.train_ids or range(workload.n_train)
    exact = {name: k for k, name in enumerate(own)}
    written = {str(name): k for name, k in exact.items()}
    found = set()
    for name in ids:
        name = name.item() if isinstance(name, np.generic) else name
        position = exact.get(name, written.get(name) if isinstance(name, str) else None)
        if position is None:
            near = get_close_matches(str(name), written, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise InputError(
                f"no training example '{name}'; {hint}there are {len(own)}, '{own[0]}' to '{own[-1]}'"
            )
        found.add(position)
    if not found:
        raise InputError("no example to remove: expected at least one id")
    return torch.tensor(sorted(found))


def _values(trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
    """The query's values [query, window] in the recorded run at the end of each window's evaluation."""
    values = {}
    for t in {max(w.evaluations(trajectory.steps)) for w in windows}:
        theta = trajectory.state(t).theta
        with torch.no_grad():
            values[t] = query.at(trajectory.workload_at(t), theta)(theta)
    return torch.stack([values[max(w.evaluations(trajectory.steps))] for w in windows], 1)


def _agreement(estimate: np.ndarray, truth: Tensor) -> np.ndarray:
    if truth.shape[-1] < 2:
        return np.full((len(METRICS), *truth.shape[:-1]), np.nan)
    found = agreement(torch.tensor(estimate).contiguous(), truth.cpu().contiguous())
    return found.movedim(-1, 0).numpy()


def _coords(scores: xr.Dataset, train: np.ndarray, windows: Sequence[Window]) -> dict[str, Any]:
    return {"query": scores["query"].values, "train": train, **window_coords(windows)}


def _attrs(scores: xr.Dataset) -> dict[str, Any]:
    same = ("sign", "estimator", "query", "workload", "seed", "optimizer", "influencekit_version")
    return {name: scores.attrs[name] for name in (*same, "caution") if name in scores.attrs}
