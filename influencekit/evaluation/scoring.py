"""The scores that are evaluated: of one run, by several estimators, none of them with a hole."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from influencekit.errors import InputError
from influencekit.interfaces import Estimator, Query
from influencekit.progress import track
from influencekit.registry import label, make
from influencekit.trajectory.trajectory import Trajectory
from influencekit.verbs.estimate import estimate
from influencekit.verbs.remove import windows_of
from influencekit.verbs.results import Windows, examples, window_coords, windows_among
from influencekit.windows import Removal, Window

__all__ = ["Estimators", "complete", "estimators_of", "incomplete", "score", "scored"]

Estimators = Estimator | str | xr.Dataset | Sequence[Estimator | str]
_DIMS = ("estimator", "query", "window", "train")


def score(
    trajectory: Trajectory,
    query: Query | str = "test-loss",
    estimators: Estimators = ("dit",),
    windows: Windows = None,
    removal: Removal = "global",
) -> tuple[Query, xr.Dataset, list[Window]]:
    """The query, `influence` [estimator, query, window, train] and its windows, on one run.

    `estimators`: one or several, as objects or specs; or scores that are there: what `estimate` returns, or
    one seed of what `compare` returns, whose windows are taken. Errors: scores of another run or query, or of
    several seeds; scores that are NaN.
    """
    query = make("query", query) if isinstance(query, str) else query
    if isinstance(estimators, xr.Dataset):
        if windows is not None:
            raise InputError("the scores bring their own windows; give windows, or scores, not both")
        found = _ready(trajectory, query, estimators)
    else:
        found = scored(trajectory, query, estimators_of(estimators), windows, removal)
    for name, (known, total) in incomplete(found).items():
        raise InputError(
            f"{name} scored {known} of {total} examples, and an evaluation sums the scores of random ones: "
            "let it score all of them, or leave it out"
        )
    return query, found, windows_of(found)


def scored(
    trajectory: Trajectory,
    query: Query,
    methods: Mapping[str, Estimator],
    windows: Windows = None,
    removal: Removal = "global",
) -> xr.Dataset:
    """`influence` [estimator, query, window, train] of the run, NaN for what an estimator leaves out."""
    chosen = windows_among(trajectory.plan.epoch.tolist(), windows, removal)
    each = [
        estimate(trajectory, query, method, chosen).influence
        for method in track(methods.values(), "estimators", len(methods))
    ]
    return xr.Dataset(
        {"influence": (_DIMS, np.stack([one.values for one in each]))},
        coords={
            "estimator": list(methods),
            "query": each[0]["query"].values,
            "train": examples(trajectory.workload),
            **window_coords(chosen),
        },
    )


def estimators_of(estimators: Estimators) -> dict[str, Estimator]:
    """{label: estimator}. Errors: ready scores, where the estimators themselves are needed; none at all."""
    if isinstance(estimators, xr.Dataset):
        raise InputError("this evaluation scores another run: give the estimators, not scores that are ready")
    each = [estimators] if isinstance(estimators, Estimator | str) else list(estimators)
    if not each:
        raise InputError("expected at least one estimator, got none")
    made = [make("estimator", one) if isinstance(one, str) else one for one in each]
    return {label(one): one for one in made}


def incomplete(scores: xr.Dataset) -> dict[str, tuple[int, int]]:
    """{estimator: how many examples it scored, of how many}, of those that left some out."""
    known = np.isfinite(scores.influence.transpose(*_DIMS).values).all((1, 2))
    names = scores.estimator.values.tolist()
    return {n: (int(row.sum()), len(row)) for n, row in zip(names, known, strict=True) if not row.all()}


def complete(scores: xr.Dataset) -> xr.Dataset:
    """Without the estimators that left some examples out."""
    return scores.drop_sel(estimator=list(incomplete(scores)))


def _ready(trajectory: Trajectory, query: Query, scores: xr.Dataset) -> xr.Dataset:
    """Scores that are there, with dims [estimator, query, window, train] and the run's own coordinates."""
    if "influence" not in scores:
        raise InputError("expected scores with the variable influence, as estimate and compare return them")
    if "seed" in scores.influence.dims:
        raise InputError("these scores are of several seeds; take those of this run: result.sel(seed=...)")
    if "estimator" not in scores.influence.dims:
        name = scores.attrs.get("estimator", "scores")
        scores = scores.assign(influence=scores.influence.expand_dims(estimator=[name]))
    workload = trajectory.workload
    ids = scores["train"].values if "train" in scores.coords else scores.coords.get("example")
    mine: dict[str, tuple[Any, Any]] = {
        "query": (scores.attrs.get("query"), label(query)),
        "workload": (scores.attrs.get("workload"), workload.name),
        "examples": (
            [] if ids is None else [str(i) for i in np.asarray(ids).tolist()],
            [str(i) for i in examples(workload)],
        ),
    }
    if "seed" in scores.attrs:
        mine["seed"] = (scores.attrs["seed"], workload.seed)
    for name, (theirs, own) in mine.items():
        if theirs != own:
            shown = "" if name == "examples" else f" ({theirs!r} in them, {own!r} here)"
            raise InputError(
                f"these scores are not of this run and query: their {name} differ{shown}; score it anew"
            )
    values = scores.influence.transpose(*_DIMS)
    return xr.Dataset(
        {"influence": (_DIMS, values.values)},
        coords={
            "estimator": values.estimator.values,
            "query": list(query.labels(workload)),
            "train": examples(workload),
            **{name: ("window", scores[name].values) for name in ("start", "stop", "removal")},
        },
    )
