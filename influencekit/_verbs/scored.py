"""Scores that are held beside retraining: made, or ready; their order, and what goes with them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from influencekit._direction import Which, better_in, side, which_end
from influencekit._labelled import check_run, dataset_of
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import asked
from influencekit._verbs.estimate import estimate
from influencekit._verbs.results import (
    Windows,
    examples,
    intercept_of,
    run_of,
    window_coords,
    windows_of,
)
from influencekit.errors import InputError
from influencekit.interfaces import Estimator, Query
from influencekit.registry import label, resolve
from influencekit.windows import Removal, Window

__all__ = ["attrs_of", "coords_of", "ordered", "ranked", "scored", "values_at_ends"]


def scored(
    trajectory: Trajectory,
    query: Query | str,
    estimator: Estimator | str | xr.Dataset,
    windows: Windows,
    removal: Removal,
    parts: bool = False,
) -> tuple[Query, xr.Dataset, list[Window]]:
    """The query, the scores (by part) and their windows. Errors: ready scores of another run or query."""
    query = resolve("query", query)
    if isinstance(estimator, xr.DataArray):
        raise InputError("the scores are the whole result of estimate, not its influence alone; pass that")
    if not isinstance(estimator, xr.Dataset):
        scores = estimate(trajectory, query, estimator, windows, removal, parts=parts)
        return query, scores, windows_of(scores)
    if windows is not None:
        raise InputError("the scores bring their own windows; give windows to estimate, or an estimator here")
    mine = {"query": label(query), "workload": trajectory.workload.name, "seed": trajectory.workload.seed}
    mine["average"] = asked(trajectory).get("average")
    needed = ("influence", "start", "stop", "removal", "train")
    dims = ("query", "window", "train", *(["part"] if parts else []))
    what = f"what estimate(...{', parts=True' if parts else ''}) gives"
    dataset_of("estimator", what, estimator, needed, dims=dims)
    for name, value in mine.items():
        if estimator.attrs.get(name) != value:
            raise InputError(
                f"these scores are not of this run and query: {name} is {estimator.attrs.get(name)!r} in "
                f"them, {value!r} here; estimate them anew"
            )
    if "part" in estimator.influence.dims and not parts:
        raise InputError(
            "estimator: these are the scores of parts, and whole examples are asked about; give what "
            "estimate(...) gives, or ask about parts (parts=True of verify_top, rows of remove)"
        )
    own = [str(each) for each in examples(trajectory.workload)]
    if set(estimator.influence.dims) != set(dims) or [str(x) for x in estimator.train.values.tolist()] != own:
        raise InputError("these scores are not of this run: they are of other examples; estimate them anew")
    check_run(estimator.attrs.get("run"), run_of(trajectory, query))
    intercept_of(estimator)  # refuses scores for sets that have lost it
    return query, estimator, [window.check(trajectory.steps) for window in windows_of(estimator)]


def ranked(scores: xr.Dataset, which: Which | None = None) -> list[int]:
    """Positions of the scored examples, the most harmful first; `which` as in `verify_top`.

    By the mean over queries and windows. Which way is better is what the result says of its query.
    """
    better = better_in(scores.attrs)
    which = which_end(which, better, f"query {scores.attrs.get('query', 'of these scores')}")
    return ordered(scores, side(which, better))


def ordered(scores: xr.Dataset, sign: int) -> list[int]:
    """Positions of the scored examples, the most negative mean first (sign -1), or the most positive."""
    mean = scores.influence.mean(("query", "window"), skipna=False).values
    order = mean.argsort(kind="stable")
    order = order[np.isfinite(mean[order])].tolist()
    return order[::-1] if sign > 0 else order


def values_at_ends(trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
    """The query's values [query, window] in the recorded run at the end of each window's evaluation."""
    values = {}
    for t in {max(w.evaluations(trajectory.steps)) for w in windows}:
        theta = trajectory.evaluated(t).theta
        with torch.no_grad():
            values[t] = query.at(trajectory.workload_at(t), theta)(theta)
    return torch.stack([values[max(w.evaluations(trajectory.steps))] for w in windows], 1)


def coords_of(scores: xr.Dataset, positions: list[int], windows: Sequence[Window]) -> dict[str, Any]:
    """The coordinates of a result about the examples at `positions`: queries, examples and windows."""
    some = {n: ("train", scores[n].values[positions]) for n in ("train", "label") if n in scores.coords}
    return {"query": scores["query"].values, **some, **window_coords(windows)}


def attrs_of(scores: xr.Dataset) -> dict[str, Any]:
    """What a result about these scores says of where they come from."""
    same = (
        "sign",
        "better",
        "average",
        "average_states",
        "estimator",
        "query",
        "workload",
        "seed",
        "run",
        "optimizer",
        "influencekit_version",
    )
    return {name: scores.attrs[name] for name in (*same, "caution") if name in scores.attrs}
