"""Screen: what the scores of a set of examples sum to, beside exact retraining without it."""

from collections.abc import Hashable, Iterable, Iterator, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from influencekit._arguments import checked, short, whole_number
from influencekit._bars import with_progress
from influencekit._effects.retrain import Weighting, check_finite
from influencekit._effects.sums import part_sizes, worst_verdict
from influencekit._executors.session import Workers
from influencekit._training.ids import positions_among
from influencekit._training.workload import Workload
from influencekit._trajectory.by_part import by_part
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import averaged_as
from influencekit._verbs.by_part import pairs_in, positions_of_parts, to_retrain
from influencekit._verbs.executor import with_executor
from influencekit._verbs.moved_runs import check_runs, sums_of_moved_runs
from influencekit._verbs.removal_list import ids_in
from influencekit._verbs.removed_sets import without
from influencekit._verbs.results import Windows, intercept_of, require_run
from influencekit._verbs.scored import attrs_of, coords_of, scored, values_at_ends
from influencekit.errors import InputError
from influencekit.interfaces import Average, Estimator, Query
from influencekit.windows import Removal

__all__ = ["positions_of", "remove"]


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
    `Path` to a file of them: one a line, or what `curate --out` wrote. Rows (id, part) are parts of examples,
    such as tokens, each named once, also from a table with these columns, as `estimate --parts --verify-top
    --out` writes it; `train` in the result is then "ID[part]". The result has `influence`
    [query, window, train], the score of each, the strongest first; `estimate` [query, window], their sum,
    which is what first order says of the set (for scores for sets, with their `intercept`: take
    `dit:centre=A` where the set leaves about the fraction A of the examples in); `retrained` [query, window];
    `before` and `after` [query, window], the query's values at the end of the window (where a window of
    global removal starts later, `after` is before + retrained); `accuracy_before` and `accuracy_after`
    [window] there.

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
    estimate; of parts of examples, a training run more for each run. Batches keep their divisor: a step that
    loses all its examples has zero loss gradient, and weight decay and momentum still act. Errors: an id that
    no example has, none at all, a set that leaves nothing to train on; fewer than three runs; a part of an
    example that is not there, or named twice.

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
    trajectory = averaged_as(trajectory, average, estimator)
    ids = ids_in(ids) if isinstance(ids, Path) else list(ids) if isinstance(ids, Iterator | Set) else ids
    if pairs := pairs_in(ids):
        run: Trajectory = by_part(trajectory)
        positions, what = positions_of_parts(trajectory, pairs), "part"
    else:
        run, what = trajectory, "example"
        positions = positions_of(run.workload, ids)
    left = torch.ones(run.workload.n_train, dtype=torch.bool).index_fill_(0, positions, False)
    if not left[run.plan.indices.clamp(min=0)][run.plan.indices >= 0].any():
        raise InputError(
            f"these {len(positions)} {what}s are all that the run trains on; leave some of them in"
        )
    query, scores, among = scored(trajectory, query, estimator, windows, removal, bool(pairs))
    if pairs:
        run, scores = to_retrain(trajectory, scores)
    strength = np.abs(scores.influence.mean(("query", "window"), skipna=False).values[positions.numpy()])
    positions = positions[np.argsort(-strength, kind="stable")]
    found = scores.influence.isel(train=positions.numpy()).transpose("query", "window", "train").values
    if not np.isfinite(found).all():
        raise InputError(f"some of these {what}s have no score (NaN); estimate them anew, or name others")
    sizes = part_sizes(len(positions), parts)
    sums = np.stack([found[..., :n].sum(-1) for n in sizes], -1)
    estimates = sums + intercept_of(scores).transpose("query", "window").values[..., None]
    before = values_at_ends(trajectory, query, among)
    truth, accuracy = without(run, query, [positions[:n] for n in sizes], among)
    check_finite(truth[..., -1:], [Weighting(positions)], run.workload)
    shown = truth.cpu().numpy()
    said = worst_verdict(sizes, estimates.mean(0), shown.mean(0), among)
    others, attrs = dict[str, Any](), dict[str, Any]()
    if runs is not None:
        single = sizes[0] == 1 and "intercept" not in scores  # a score for sets says nothing of one example
        others, attrs = sums_of_moved_runs(
            trajectory, query, estimator, scores, positions.numpy(), shown[..., -1], among, runs, moved,
            (estimates[..., 0], shown[..., 0]) if single else None, bool(pairs),
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
        coords={**coords_of(scores, positions.tolist(), among), "part": sizes},
        attrs={**attrs_of(scores), **attrs, "verdict": said.replace("example", what)},
    )


def positions_of(workload: Workload, ids: Iterable[Hashable]) -> Tensor:
    """Positions in the training set, ascending and each once, of examples named by their own ids.

    A text stands for the id that is written like it, so that ids may come from a file. Errors: as `remove`.
    """
    if isinstance(ids, str):
        raise InputError(
            f"expected a list of example ids, got {short(ids)}; a file of them is Path({short(ids)})"
        )
    found = set(positions_among(ids, workload.train_ids or range(workload.n_train)))
    if not found:
        raise InputError("no example to remove: expected at least one id")
    return torch.tensor(sorted(found))
