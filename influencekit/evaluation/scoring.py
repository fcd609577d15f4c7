"""The scores that are evaluated: of one run, by several estimators, none of them with a hole."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from influencekit._labelled import check_run, dataset_of
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import asked
from influencekit._verbs.estimate import estimate
from influencekit._verbs.results import example_coords, examples, intercept_of, run_of, window_coords
from influencekit.errors import InputError
from influencekit.interfaces import Estimator, Query
from influencekit.progress import track
from influencekit.registry import label, listed, resolve
from influencekit.windows import Window

__all__ = ["estimators_of", "holes", "ready", "require_estimators", "scored", "sums_over"]

_DIMS = ("estimator", "query", "window", "train")


def scored(
    trajectory: Trajectory, query: Query, methods: Mapping[str, Estimator], windows: Sequence[Window]
) -> xr.Dataset:
    """`influence` [estimator, query, window, train] of the run, NaN for what an estimator leaves out, and the
    `intercept` [estimator, query, window] of its sums."""
    each = [
        estimate(trajectory, query, method, windows)
        for method in track(methods.values(), "estimators", len(methods))
    ]
    return xr.Dataset(
        {
            "influence": (_DIMS, np.stack([one.influence.values for one in each])),
            "intercept": (_DIMS[:3], np.stack([intercept_of(one).values for one in each])),
        },
        coords={
            "estimator": list(methods),
            "query": each[0]["query"].values,
            **example_coords(trajectory.workload),
            **window_coords(windows),
        },
    )


def estimators_of(estimators: Estimator | str | Sequence[Estimator | str]) -> dict[str, Estimator]:
    """{label: estimator}. Errors: none at all."""
    made = [resolve("estimator", one) for one in listed("estimators", estimators)]
    return {label(one): one for one in made}


def require_estimators(estimators: Mapping[str, Estimator]) -> None:
    """For evaluations that score another run. Errors: only scores were given."""
    if not estimators:
        raise InputError("this evaluation scores another run: give the estimators, not scores that are ready")


def holes(scores: xr.Dataset) -> dict[str, str]:
    """{estimator: in words, how many examples it scored}, of those that left some out."""
    known = np.isfinite(scores.influence.transpose(*_DIMS).values).all((1, 2))
    each = zip(scores.estimator.values.tolist(), known, strict=True)
    return {n: f"scored {row.sum()} of {len(row)} examples only" for n, row in each if not row.all()}


def ready(trajectory: Trajectory, query: Query, scores: xr.Dataset) -> xr.Dataset:
    """Scores that are there, `influence` [estimator, query, window, train] with the run's own coordinates,
    and the `intercept` [estimator, query, window] of their sums.

    What `estimate` returns, or one seed of what `compare` returns. Errors: scores of another run or query, or
    of several seeds.
    """
    dataset_of(
        "scores", "what estimate or compare returned", scores, ("influence", "start", "stop", "removal")
    )
    if "seed" in scores.influence.dims:
        raise InputError("these scores are of several seeds; take those of this run: result.sel(seed=...)")
    if "estimator" not in scores.influence.dims:
        name = scores.attrs.get("estimator", "scores")
        parts = {"influence": scores.influence, "intercept": intercept_of(scores)}
        scores = scores.assign({k: one.expand_dims(estimator=[name]) for k, one in parts.items()})
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
    mine["average"] = (scores.attrs.get("average"), asked(trajectory).get("average"))
    if "seed" in scores.attrs:
        mine["seed"] = (scores.attrs["seed"], workload.seed)
    for name, (theirs, own) in mine.items():
        if theirs != own:
            shown = "" if name == "examples" else f" ({theirs!r} in them, {own!r} here)"
            raise InputError(
                f"these scores are not of this run and query: their {name} differ{shown}; score it anew"
            )
    whose = scores.coords["run"].item() if "run" in scores.coords else scores.attrs.get("run")
    check_run(whose, run_of(trajectory, query))
    values = scores.influence.transpose(*_DIMS)
    return xr.Dataset(
        {
            "influence": (_DIMS, values.values),
            "intercept": (_DIMS[:3], intercept_of(scores).transpose(*_DIMS[:3]).values),
        },
        coords={
            "estimator": values.estimator.values,
            "query": list(query.labels(workload)),
            **example_coords(workload),
            **{name: ("window", scores[name].values) for name in ("start", "stop", "removal")},
        },
    )


def sums_over(scores: xr.Dataset, sets: np.ndarray) -> np.ndarray:
    """What scores say of leaving out each of `sets` [set, train]: [estimator, query, window, set]."""
    sums = scores.influence.values.astype(np.float64) @ sets.T.astype(np.float64)
    return np.asarray(sums + intercept_of(scores).values[..., None])
