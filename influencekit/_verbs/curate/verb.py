"""Curate: choose by some of the trusted examples, retrain exactly, judge by the others."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from influencekit._address import local
from influencekit._arguments import check_seed, checked, real_number, whole_number
from influencekit._bars import with_progress
from influencekit._effects.repeated import Moved
from influencekit._effects.retrain import Strategy
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.curate.choosers import MEAN, choosers_of, combined, scores_of_run
from influencekit._verbs.curate.cost import plan_of, say, say_scores
from influencekit._verbs.curate.folds import folds_of
from influencekit._verbs.curate.kept_run import kept_pieces
from influencekit._verbs.curate.result import Measured, result_of
from influencekit._verbs.curate.retraining import changes_without, each_run, losses_at_end
from influencekit._verbs.curate.sets import at_random, most_harmful, sizes_of, trained
from influencekit._verbs.curate.trusted import refuse_unfit, tested_on, trusted_of
from influencekit._verbs.moved_runs import check_runs
from influencekit._verbs.results import check_windows, require_run
from influencekit.interfaces import Estimator
from influencekit.windows import Window

__all__ = ["curate"]


@with_progress
@checked
def curate(
    trajectory: Trajectory,
    trusted: Any = None,
    choosers: Estimator | str | Sequence[Estimator | str] = "dit",
    k: tuple[int, ...] | None = None,
    seed: int = 0,
    draws: int = 8,
    level: float = 0.95,
    strategy: Strategy = "auto",
    folds: int = 5,
    runs: int | None = None,
    moved: float = 0.001,
    folder: str | Path | None = None,
) -> xr.Dataset:
    """What to leave out of training, and how much better the model is without it, on data nobody chose on.

    `trusted`: examples with right labels that the run was not trained on, as `test=` of `open` takes them: a
    batch, a data set, a DataLoader. None = the run's own test set. `seed` deals them into `folds`. By the
    mean loss of some folds, every one of the `choosers` (estimators; "mean" among them = the mean of all
    others, each divided by its root mean square) scores the training examples; its k most harmful are a set,
    for each `k` (1, 2, 5, 10 and 20 % of the examples unless you say). All sets, and `draws` random ones of
    each size, are retrained exactly, on the recorded batches, equal ones once.

    Every fold judges sets that the other folds chose; which chooser and which k, the other folds say on sets
    that they did not choose either (nested cross-validation). What is recommended in the end is chosen in the
    same way by all trusted examples. So the verdict is about choosing in this way, with somewhat fewer
    examples than at last. With `runs`, so many are trained, the recorded one among them, from starts moved by
    the fraction `moved`; sets that are judged in one run are chosen by the scores of the others.

    The result has `effect` [chooser, k], the mean loss without the set minus with it (negative = better), by
    examples that did not choose the set, from `low` to `high`, a bootstrap interval at `level` over examples
    and runs, widened by a quarter since folds share examples; `effect_runs` [run, chooser, k]. The lowest
    effect is recommended; as the lowest of many it flatters a little. `judged` [run, trusted] does not: the
    change of each example's loss by the set that was chosen without it in all respects, 0 where that choice
    was to drop nothing. `fold` [trusted]; `fold_chooser`, `fold_k` [run, fold_number], what was chosen for
    each fold to judge (k = 0: nothing). Of the final sets, chosen by all: `removed` [chooser, k, train];
    `choosing_effect` [chooser, k], on the examples that chose, which flatters; `predicted` [chooser, k], the
    sum of the scores where they are effects, else NaN; `influence` [chooser, train]. `random` [draw, k];
    `best_k` [chooser], by `effect`. Of the best chooser, [train]: `influence_score`, its scores scaled to 0
    (most harmful) ... 0.5 (no effect) ... 1; `is_influence_issue`, whether to drop the example; `verified`,
    whether it is also in at least half of the sets that were judged; `action`, "drop" or "keep".

    Attrs: `verdict`; `recommendation`, "drop nothing" unless the interval of `judged` lies below zero;
    `chooser` and `size` of the best set; `judged_effect`, `judged_low`, `judged_high` (the lower end goes on
    to `choosing_effect` of that set, which more examples chose than what is judged); `loss`, the mean loss
    with all examples; `trainings`, how many different sets were retrained, over all runs, and `plan`.

    `folder` keeps the effects of sets, and scores that are made by retraining: a call that was stopped goes
    on, and other choosers, k, folds and seeds retrain only what is not there.

    Sign: removal minus full. Cost: the scores of each chooser with a query a fold, a training run for each of
    at most (1 + folds + folds (folds - 1) / 2) x choosers x k sets and draws x k random ones, divided by what
    batching gains; all of it times `runs`. If this is above a minute, a line on stderr says so before it
    begins. Errors: no trusted data, fewer than 20, labels of other classes than in training, or more than a
    tenth of them trained on as well (equal contents; fewer such copies are left out, as are all but one of
    equal trusted examples and targets that the loss ignores; `caution` says so, and which labels of training
    examples no trusted one has); fewer than 3 folds; a k that leaves nothing to train on; a
    folder of something else. Source of the interval: Bates, Hastie and Tibshirani, Cross-validation: what
    does it estimate and how well does it do it?, JASA 2024.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=40:epochs=2"))
        >>> found = ik.curate(run, k=(2, 4), draws=3, folds=3)
        >>> found.effect.dims, found.random.dims, found.judged.shape
        (('chooser', 'k'), ('draw', 'k'), (1, 256))
        >>> found.recommendation.startswith("drop")
        True
    """
    require_run(trajectory)
    check_seed("seed", seed)
    whole_number("draws", draws, 1)
    real_number("level", level, above=0.0, below=1.0)
    check_runs(runs, moved)
    moves = [Moved(moved, number) for number in range(1, runs or 1)]
    methods, mean = choosers_of(choosers)
    for method in methods.values():
        check_windows(trajectory, method, [Window(0, trajectory.steps)])
    used = trained(trajectory)
    ks = sizes_of(len(used), k)
    given = trusted_of(trajectory, trusted)
    run = tested_on(trajectory, given.batch)
    refuse_unfit(run.workload, trusted)
    dealt = folds_of(len(given.ids), folds, seed)
    names = [*methods, *([MEAN] if mean else [])]
    sets = (len(dealt.groups) * len(names) + draws) * len(ks)
    plan = plan_of(run, sets, strategy, methods, 1 + len(moves))
    say(plan)
    with nullcontext() if folder is None else kept_pieces(local(folder), run) as pieces:
        every, began = [], time.perf_counter()
        for one, kept in each_run(run, moves, pieces):
            every.append(scores_of_run(one, methods, dealt, kept))
            if len(every) == 1:
                say_scores(time.perf_counter() - began, len(moves))
        scores, starts = combined(every, dealt, mean)
        masks = most_harmful(scores, names, used, ks)
        random = at_random(run.workload.n_train, used, ks, draws, seed)
        changes, by_chance, trainings = [], [], 0
        for mine, (one, kept) in zip(masks, each_run(run, moves, pieces), strict=True):
            together = np.concatenate([mine.reshape(-1, *mine.shape[2:]), random])
            change, count = changes_without(one, together, strategy, kept)
            changes.append(change[:, :-draws].reshape(len(change), *mine.shape[:3]))
            by_chance.append(change[:, -draws:])
            trainings += count
    final = dealt.groups[()]
    measured = Measured(
        run, methods, names, ks, dealt, given, ["recorded", *map(str, moves)], np.stack(changes),
        np.stack(by_chance), scores[0, final], starts[0, final], masks, losses_at_end(run),
        [said for each in every for said in each.cautions],
    )  # fmt: skip
    found = result_of(measured, level, seed)
    return found.assign_attrs(
        draws=draws,
        trainings=trainings,
        plan=f"{plan}; {trainings} were different",
        **({"moved": moved} if moves else {}),
    )
