"""Screen and verify: what a cheap estimator says of a few examples, or of a set, beside exact retraining."""

from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from influencekit._arguments import checked, whole_number
from influencekit._bars import with_progress
from influencekit._direction import Which, better_in, better_of, side, which_end
from influencekit._effects.retrain import Strategy, Weighting, check_finite, strategy_of
from influencekit._effects.sums import part_sizes, worst_verdict
from influencekit._executors.session import Workers
from influencekit._labelled import check_run, dataset_of
from influencekit._training.ids import positions_among
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import asked, averaged_as
from influencekit._verbs.estimate import estimate
from influencekit._verbs.executor import with_executor
from influencekit._verbs.moved_runs import check_runs, sums_of_moved_runs
from influencekit._verbs.removal_list import ids_in
from influencekit._verbs.removed_sets import without
from influencekit._verbs.results import (
    Windows,
    examples,
    intercept_of,
    require_run,
    run_of,
    window_coords,
    windows_of,
)
from influencekit.errors import InputError
from influencekit.estimators.loo import retraining_effects
from influencekit.interfaces import Average, Estimator, Query
from influencekit.metrics import METRICS, agreement
from influencekit.registry import label, resolve
from influencekit.windows import Removal, Window

__all__ = ["ranked", "remove", "verify_top"]


@with_progress
@with_executor
@checked
def verify_top(
    trajectory: Trajectory,
    query: Query | str = "test-loss",
    estimator: Estimator | str | xr.Dataset = "dit",
    top: int = 20,
    which: Which | None = None,
    windows: Windows = None,
    removal: Removal = "global",
    strategy: Strategy = "auto",
    average: Average | str | Any = None,
    *,
    executor: Workers | str | Any = None,
) -> xr.Dataset:
    """The most harmful (or helpful) examples by an estimator, and what retraining without each of them shows.

    `estimator` may be the result of `estimate` on this run, which brings its windows. The examples are ranked
    by the mean over queries and windows, and are the coordinate `train`, in that order. `which` is "harmful"
    (unless you say) or "helpful", for a query that says which way is better (`Query.better`): for a loss the
    most harmful have the most negative scores, for a margin the most positive ones. Whatever the query,
    "lowers" (most negative first) and "raises" say what removal does to it; "lowers" is the default where
    neither way is better. The result has `estimate` and `retrained` [query, window, train], both as removal
    minus full; `before` [query, window], the query's value in the recorded run at the end of the window, and
    `after` = before + retrained; `agreement` [metric, query, window] of the two over these examples (NaN
    where it is undefined), and `same_sign`, the share of them of which the estimate has the sign right.
    `average`, `executor`: as of `estimate`.

    Sign: removal minus full. Cost: the estimate, and at most a training run for each of the examples, divided
    by what batching gains. Errors: `top` below 1; "harmful" or "helpful" of a query that does not say which
    way is better; scores of another run or query.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.verify_top(run, top=3)
        >>> found.estimate.shape == found.retrained.shape == (1, 1, 3)
        True
    """
    require_run(trajectory)
    whole_number("top", top, 1)
    query = resolve("query", query)
    better = better_of(query)
    which = which_end(which, better, f"query {label(query)}")
    trajectory = averaged_as(trajectory, average, estimator)
    query, scores, among = scored(trajectory, query, estimator, windows, removal)
    positions = _ordered(scores, side(which, better))[:top]
    truth = retraining_effects(
        trajectory, query, [Weighting(torch.tensor([p])) for p in positions], among, strategy
    )
    found = scores.influence.isel(train=positions)
    before = _values(trajectory, query, among)
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
        coords={"metric": list(METRICS), **_coords(scores, positions, among)},
        attrs={**_attrs(scores), "which": which, "strategy": strategy_of(trajectory, strategy)},
    )


@with_progress
@with_executor
@checked
def remove(
    trajectory: Trajectory,
    query: Query | str = "test-loss",
    ids: Iterable[Hashable] | Path = (),
    estimator: Estimator | str | xr.Dataset = "dit",
    windows: Windows = None,
    removal: Removal = "global",
    parts: int = 3,
    average: Average | str | Any = None,
    runs: int | None = None,
    moved: float = 0.001,
    *,
    executor: Workers | str | Any = None,
) -> xr.Dataset:
    """What being without a whole set of examples does: the sum of their scores, and retraining without all.

    `ids` are the examples' own ids (`Workload.train_ids`; positions where there are none), in any order, or a
    `Path` to a file of them: one a line, or what `curate --out` wrote. The result has `influence` [query,
    window, train], the score of each, the strongest first; `estimate` [query, window], their sum, which is
    what first order says of the set (for scores for sets, with their `intercept`: take `dit:centre=A` where
    the set leaves about the fraction A of the examples in); `retrained` [query, window]; `before` and `after`
    [query, window], the query's values at the end of the window (where a window of global removal starts
    later, `after` is before + retrained); `accuracy_before` and `accuracy_after` [window] there.

    How far the sum may be believed: `part_estimate` and `part_retrained` [query, window, part] are the same
    for the `part` strongest examples of the set (by the size of their mean score), a quarter, half and all of
    it; `parts` says how many sizes, each half of the next. Attr `verdict` says it in words, of the mean over
    queries and the window that is worst: "the sum has the wrong sign from 50 examples on". `average`,
    `executor`: as of `estimate`.

    Ids that were chosen by these scores have a biased sum: some score low by the chance of this run alone.
    `runs`, say 9, trains the run eight times more, its start moved by the fraction `moved` of each tensor.
    Added are `estimate_crossfit` [query, window], the sum on runs that did not choose, with `low` and `high`,
    the 95 % interval of its expected value, and `run_low`, `run_high`, where one more run's sum would lie;
    `estimate_shrunk`, the sum predicted from all runs; `icc`, the fraction of the scores' variance that runs
    have in common; `estimate_runs` and `retrained_runs` [run, query, window], sum and truth on each. If the
    ids are the k lowest or highest by mean score, every run chooses its own k in turn; else the others sum
    over these ids. `verdict` then says, too, which part of the error is the choice: nothing of this mends
    that scores are derivatives, which need not add up.

    Sign: removal minus full. Cost: the estimate and a training run for each of the parts, at once where
    batching is faster; parts=1 trains only without the whole set; for each moved run two trainings and the
    estimate. Batches keep their divisor: a step that loses all its examples has zero loss gradient, and
    weight decay and momentum still act. Errors: an id that no example has, none at all, a set that leaves
    nothing to train on; fewer than three runs.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.remove(run, ids=run.workload.train_ids[:4])
        >>> found.part.values.tolist()
        [1, 2, 4]
        >>> found.verdict
        'the sum holds to within ... % for 1, 2 and all 4 examples'
    """
    require_run(trajectory)
    whole_number("parts", parts, 1)
    check_runs(runs, moved)
    workload = trajectory.workload
    positions = positions_of(workload, ids_in(ids) if isinstance(ids, Path) else ids)
    left = torch.ones(workload.n_train, dtype=torch.bool).index_fill_(0, positions, False)
    if not left[trajectory.plan.indices.clamp(min=0)][trajectory.plan.indices >= 0].any():
        raise InputError(
            f"these {len(positions)} examples are all that the run trains on; leave some of them in"
        )
    trajectory = averaged_as(trajectory, average, estimator)
    query, scores, among = scored(trajectory, query, estimator, windows, removal)
    strength = np.abs(scores.influence.mean(("query", "window"), skipna=False).values[positions.numpy()])
    positions = positions[np.argsort(-strength, kind="stable")]
    found = scores.influence.isel(train=positions.numpy()).transpose("query", "window", "train").values
    if not np.isfinite(found).all():
        raise InputError("some of these examples have no score (NaN); estimate them anew, or name others")
    sizes = part_sizes(len(positions), parts)
    sums = np.stack([found[..., :n].sum(-1) for n in sizes], -1)
    estimates = sums + intercept_of(scores).transpose("query", "window").values[..., None]
    before = _values(trajectory, query, among)
    truth, accuracy = without(trajectory, query, [positions[:n] for n in sizes], among)
    check_finite(truth[..., -1:], [Weighting(positions)])
    shown = truth.cpu().numpy()
    said = worst_verdict(sizes, estimates.mean(0), shown.mean(0), among)
    others, attrs = dict[str, Any](), dict[str, Any]()
    if runs is not None:
        single = sizes[0] == 1 and "intercept" not in scores  # a score for sets says nothing of one example
        others, attrs = sums_of_moved_runs(
            trajectory, query, estimator, scores, positions.numpy(), shown[..., -1], among, runs, moved,
            (estimates[..., 0], shown[..., 0]) if single else None,
        )  # fmt: skip
        said = f"{said}; {attrs.pop('verdict_runs')}"
    return xr.Dataset(
        {
            "influence": (("query", "window", "train"), found),
            "estimate": (("query", "window"), estimates[..., -1]),
            "retrained": (("query", "window"), shown[..., -1]),
            "before": (("query", "window"), before.cpu().numpy()),
            "after": (("query", "window"), (before + truth[..., -1]).cpu().numpy()),
            "accuracy_before": (("window",), accuracy[0]),
            "accuracy_after": (("window",), accuracy[1]),
            "part_estimate": (("query", "window", "part"), estimates),
            "part_retrained": (("query", "window", "part"), shown),
            **others,
        },
        coords={**_coords(scores, positions.tolist(), among), "part": sizes},
        attrs={**_attrs(scores), **attrs, "verdict": said},
    )


def scored(
    trajectory: Trajectory,
    query: Query | str,
    estimator: Estimator | str | xr.Dataset,
    windows: Windows,
    removal: Removal,
) -> tuple[Query, xr.Dataset, list[Window]]:
    """The query, the scores and their windows. Errors: ready scores of another run or query."""
    query = resolve("query", query)
    if isinstance(estimator, xr.DataArray):
        raise InputError("the scores are the whole result of estimate, not its influence alone; pass that")
    if not isinstance(estimator, xr.Dataset):
        scores = estimate(trajectory, query, estimator, windows, removal)
        return query, scores, windows_of(scores)
    if windows is not None:
        raise InputError("the scores bring their own windows; give windows to estimate, or an estimator here")
    mine = {"query": label(query), "workload": trajectory.workload.name, "seed": trajectory.workload.seed}
    mine["average"] = asked(trajectory).get("average")
    needed, dims = ("influence", "start", "stop", "removal", "train"), ("query", "window", "train")
    dataset_of("estimator", "what estimate(...) gives", estimator, needed, dims=dims)
    for name, value in mine.items():
        if estimator.attrs.get(name) != value:
            raise InputError(
                f"these scores are not of this run and query: {name} is {estimator.attrs.get(name)!r} in "
                f"them, {value!r} here; estimate them anew"
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
    return _ordered(scores, side(which, better))


def _ordered(scores: xr.Dataset, sign: int) -> list[int]:
    """Positions of the scored examples, the most negative mean first (sign -1), or the most positive."""
    mean = scores.influence.mean(("query", "window"), skipna=False).values
    order = mean.argsort(kind="stable")
    order = order[np.isfinite(mean[order])].tolist()
    return order[::-1] if sign > 0 else order


def positions_of(workload: Workload, ids: Iterable[Hashable]) -> Tensor:
    """Positions in the training set, ascending and each once, of examples named by their own ids.

    A text stands for the id that is written like it, so that ids may come from a file. Errors: as `remove`.
    """
    found = set(positions_among(ids, workload.train_ids or range(workload.n_train)))
    if not found:
        raise InputError("no example to remove: expected at least one id")
    return torch.tensor(sorted(found))


def _values(trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
    """The query's values [query, window] in the recorded run at the end of each window's evaluation."""
    values = {}
    for t in {max(w.evaluations(trajectory.steps)) for w in windows}:
        theta = trajectory.evaluated(t).theta
        with torch.no_grad():
            values[t] = query.at(trajectory.workload_at(t), theta)(theta)
    return torch.stack([values[max(w.evaluations(trajectory.steps))] for w in windows], 1)


def _agreement(estimate: np.ndarray, truth: Tensor) -> np.ndarray:
    if truth.shape[-1] < 2:
        return np.full((len(METRICS), *truth.shape[:-1]), np.nan)
    found = agreement(torch.tensor(estimate).contiguous(), truth.cpu().contiguous())
    return found.movedim(-1, 0).numpy()


def _coords(scores: xr.Dataset, positions: list[int], windows: Sequence[Window]) -> dict[str, Any]:
    some = {n: ("train", scores[n].values[positions]) for n in ("train", "label") if n in scores.coords}
    return {"query": scores["query"].values, **some, **window_coords(windows)}


def _attrs(scores: xr.Dataset) -> dict[str, Any]:
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
