"""Scores of every training example of a run, by one estimator."""

from typing import Any

import xarray as xr

from influencekit._arguments import checked
from influencekit._bars import with_progress
from influencekit._direction import better_of, written
from influencekit._executors.session import Workers
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import averaged
from influencekit._verbs.by_part import scores_by_part
from influencekit._verbs.executor import with_executor
from influencekit._verbs.non_finite import naming_the_query, zero_words
from influencekit._verbs.notebook import Shown
from influencekit._verbs.over_ranks import over_ranks
from influencekit._verbs.own_parts import labels_of, require_claims, scores_of
from influencekit._verbs.results import (
    Windows,
    about,
    check_windows,
    example_coords,
    require_run,
    window_coords,
    windows_among,
)
from influencekit.errors import DivergedError
from influencekit.interfaces import Average, Estimator, Query
from influencekit.registry import label, resolve
from influencekit.windows import Removal

__all__ = ["Shown", "estimate"]  # with Shown, scores have the accessor `ik`


@with_progress
@with_executor
@checked
def estimate(
    trajectory: Trajectory,
    query: Query | str = "test-loss",
    estimator: Estimator | str = "dit",
    windows: Windows = None,
    removal: Removal = "global",
    average: Average | str | Any = None,
    parts: bool = False,
    *,
    executor: Workers | str | Any = None,
    group: Any = None,
) -> xr.Dataset:
    """Scores of every training example: `influence` [query, window, train], labelled.

    `windows` is a list of `Window`, a text such as "each-epoch" (with `removal`), or None for the whole run.
    `average`: the query is asked of an average of states, not of the last: "ema:decay=0.999", "swa:start=5",
    "after:epoch=3" (the model after that epoch), {state: weight}, or an `Average`; the windows then read the
    query at the end of the run only. Attrs `average` and `average_states` say which. Examples are named by
    the coordinate `train`, and by `label`, their class, where they have one. Sign:
    removal minus full; attr `sign` says what that means for this query, and `better` which way of it is
    better. An estimator that averages over runs also gives `standard_error` [query, window, train]. A sum of
    scores is first order, too, and holds less far than a single one: `remove` says how far. Scores for sets
    (`dit:centre=0.5`) come with `intercept` [query, window], which is added to their sum.
    `parts`: `influence` [query, window, train, part], where the loss tells parts of an example apart (it
    returns `ik.Parts`): the effect of leaving out one part. NaN = the example has no such part. The first-
    order scores of the parts of an example add up to its own.
    `executor`: retraining (`loo`) is done there, in slices: see `ik.Workers`; attr `retrained_on` says on
    what machines, and is missing where nothing was sent, as by `dit`, which does not retrain, and with
    `parts`. `group`: a process group of torch.distributed, such as `torch.distributed.group.WORLD`, all of
    whose ranks make this call: they compute the sweep of `dit` or `sgd-influence` together, and each gets all
    scores. Cost: the estimator's own. Errors: a window outside the run or the recording, an estimator that
    cannot do it, scores that are not finite.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> scores = ik.estimate(run, "test-loss", "dit", "each-epoch")
        >>> scores.influence.dims, scores.influence.shape
        (('query', 'window', 'train'), (1, 2, 24))
    """
    require_run(trajectory)
    query, estimator = resolve("query", query), resolve("estimator", estimator)
    trajectory = averaged(trajectory, average)
    better = written(better_of(query))
    require_claims(estimator)
    chosen = windows_among(trajectory.plan.epoch.tolist(), windows, removal)
    check_windows(trajectory, estimator, chosen)
    trajectory, ranks = over_ranks(trajectory, query, estimator, group, chosen, parts)
    workload = trajectory.workload
    labels = labels_of(trajectory, query)
    with naming_the_query(trajectory, query, chosen):
        asked, errors = trajectory, None
        if parts:
            scores, asked = scores_by_part(trajectory, query, estimator, chosen, len(labels))
        else:
            scores, errors = scores_of(trajectory, query, estimator, chosen, len(labels))
            scores = scores if ranks is None else ranks.summed(scores)
        nan = scores.isnan()
        left_out = nan.all(0).all(0)  # on request, for every query and window
        if scores.isinf().any() or (nan & ~left_out).any() or left_out.all():
            raise DivergedError(
                f"{label(estimator)} gave scores that are NaN or infinite, and does not say why"
            )
        intercept = estimator.intercept(trajectory, query, chosen, scores)
    attrs = about(trajectory, query, estimator, asked)
    said = [s for s in (attrs.get("caution"), zero_words(trajectory, query, chosen, scores)) if s]
    attrs |= {"caution": "; ".join(said)} if said else {}
    dims = ("query", "window", "train", *(["part"] if parts else []))
    variables = {"influence": (dims, scores.cpu().numpy(), better)}
    if errors is not None:
        variables["standard_error"] = dims, errors.detach().cpu().numpy(), {}
    found = xr.Dataset(
        variables,
        coords={
            "query": labels,
            **example_coords(workload),
            **window_coords(chosen),
            **({"part": range(scores.shape[3])} if parts else {}),
        },
        attrs=attrs,
    )
    if intercept is not None:
        found["intercept"] = ("query", "window"), intercept.cpu().numpy()
    return found
