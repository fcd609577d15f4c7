"""Estimators, and what can follow them, as pieces of work."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.curate.sets import sizes_of
from influencekit._verbs.plan.advice import Choice
from influencekit._verbs.plan.measure import Peak
from influencekit._verbs.plan.recording import Recording
from influencekit._verbs.plan.retraining import Retraining, retraining_of, starts_of
from influencekit._verbs.plan.sweeping import Sweep, sweep_of
from influencekit._verbs.plan.work import Work
from influencekit._verbs.suspects.cost import trainings_of
from influencekit._verbs.trust.spans import looked_at
from influencekit._verbs.trust.verb import EXAMPLES, method_for
from influencekit.errors import InputError
from influencekit.estimators.dit import DIT
from influencekit.estimators.expected_loo import ExpectedLOO
from influencekit.estimators.loo import LOO
from influencekit.estimators.out_of_fold import OutOfFold
from influencekit.estimators.sgd_influence import SGDInfluence
from influencekit.interfaces import Estimator, Query
from influencekit.recorders import EveryK, Full, Revolve
from influencekit.registry import label
from influencekit.windows import Window

__all__ = ["Works", "require_known", "works_of"]

_SUBSETS, _RUNS = 100, 8  # of lds and of ceiling, unless the user says how many
_GROUPS, _DRAWS, _TOGETHER = 1 + 5 + 10, 8, 64  # of curate: all folds, each and each pair apart; random sets
_SUSPECTS = 4, 4, 10  # repeats, folds, and verified examples
_SWEEPS, _RETRAINS = (DIT, SGDInfluence), (LOO, ExpectedLOO, OutOfFold)
_EXAMPLES = 10_000  # whose first step is looked up


def require_known(method: Estimator) -> None:
    """Errors: an estimator that neither sweeps over the run nor retrains it."""
    if not isinstance(method, _SWEEPS + _RETRAINS):
        raise InputError(
            f"plan: a few steps say nothing about {label(method)}; name dit, sgd-influence, loo, "
            "expected-loo or out-of-fold. docs/sizing.md says what if costs"
        )


class Works(NamedTuple):
    """All pieces of work, and the sweep that was measured first, if any."""

    works: list[Work]
    sweep: Sweep | None

    def choices(self, recording: Recording, chosen: str) -> Mapping[str, Choice]:
        """What other recorders would take: on disk, and of the sweep's time."""
        if self.sweep is None or recording.disk is None:
            return {}
        apart = max(2, min(recording.steps, (4 << 30) // recording.limits.state, 50))
        found = {}
        for recorder in (Full(), EveryK(apart), Revolve(64)):
            stored, limits = recording.by(recorder)
            work = self.sweep.work("", stored, limits)
            disk = recording.disk.bytes(len(stored), recording.steps)
            found[label(recorder)] = Choice(disk, work.seconds, work.memory)
        if chosen not in found:
            work = self.sweep.work("", recording.stored, recording.limits)
            disk = recording.disk.bytes(len(recording.stored), recording.steps)
            found[chosen] = Choice(disk, work.seconds, work.memory)
        return found


def works_of(
    recording: Recording, query: Query, methods: Sequence[Estimator], windows: Sequence[Window], peak: Peak,
    top: int | None = None, parts: bool = False,
) -> Works:  # fmt: skip
    """Every method, `verify_top` of the first `top`, if asked, then `trust`, `lds`, `ceiling`, and with a
    test set `curate` and `suspects`, by their defaults. `parts`: what is verified are parts of examples."""
    short, steps, n = recording.short, recording.steps, recording.short.workload.n_train
    retraining = retraining_of(short, steps, query, n, "auto", peak)
    starts, sweep = starts_of(short, min(n, _EXAMPLES)), None
    starts = (starts * -(-n // max(1, len(starts))))[:n] if n > _EXAMPLES else starts
    works = []
    for method in methods:
        name = label(method)
        if isinstance(method, _SWEEPS):
            dit = method if isinstance(method, DIT) else DIT()
            sweep = sweep_of(short, steps, query, dit, windows, peak)
            works.append(
                _swept(sweep.work(name, recording.stored, recording.limits), dit, retraining, windows)
            )
        else:
            alone = getattr(method, "strategy", "auto") == "loop"
            works.append(_retrained(name, method, retraining.alone() if alone else retraining, starts))
    if top is not None:
        works.append(_verified(top, parts, retraining, starts))
    works.append(_trusted(short, steps, windows, retraining, starts))
    whole = [0] * _SUBSETS
    works.append(retraining.work(f"lds:m={_SUBSETS}", whole))
    works.append(retraining.work(f"ceiling:runs={_RUNS}", starts, _RUNS))
    if short.workload.test is not None and sweep is not None:
        works += _choosing(n, retraining, sweep.work("dit", recording.stored, recording.limits))
    return Works(works, sweep)


def _swept(work: Work, dit: DIT, retraining: Retraining, windows: Sequence[Window]) -> Work:
    """With `centre`, another run is trained first, for each span of absence."""
    if dit.centre is None:
        return work
    runs = len({w.removal == "global" or w.absent() for w in windows})
    return work._replace(seconds=work.seconds + runs * retraining.steps * retraining.one.step, trainings=runs)


def _retrained(name: str, method: Estimator, retraining: Retraining, starts: Sequence[int]) -> Work:
    if isinstance(method, OutOfFold):
        return retraining.work(name, [0] * (method.folds * method.repeats))
    assert isinstance(method, LOO | ExpectedLOO)
    some = len(starts) if method.examples is None else min(method.examples, len(starts))
    return retraining.work(name, _some(starts, some), method.runs if isinstance(method, ExpectedLOO) else 1)


def _some(starts: Sequence[int], count: int) -> list[int]:
    """So many of the steps at which examples are first seen, of all times alike."""
    return [starts[k * len(starts) // count] for k in range(count)]


def _verified(top: int, parts: bool, retraining: Retraining, starts: Sequence[int]) -> Work:
    """Which examples come first is not known yet, so they are taken from all. Of parts, the run itself is
    trained once more."""
    work = retraining.work(f"verify_top:top={top}", _some(starts, top if parts else min(top, len(starts))))
    if not parts:
        return work
    own = retraining.steps * retraining.one.step
    return work._replace(seconds=work.seconds + own, trainings=work.trainings + 1)


def _trusted(
    short: Trajectory, steps: int, windows: Sequence[Window], retraining: Retraining, starts: Sequence[int]
) -> Work:
    """By its defaults. What `estimate` adds where it is low is not in it."""
    count, looked = min(EXAMPLES + EXAMPLES // 2, len(starts)), looked_at(windows, steps)
    models = [0, *_some(starts, count)] if method_for(short, "auto") == "retrain" else [0, 0]
    work = retraining.work("trust", models)
    seconds = work.seconds * sum(span.runs for span in looked)
    return work._replace(seconds=seconds, trainings=len(models) * len(looked))


def _choosing(n: int, retraining: Retraining, sweep: Work) -> list[Work]:
    """`curate` (as many sets as it may retrain) and `suspects`, with dit among their scores."""
    sizes = len(sizes_of(n, None))
    curate = retraining.work("curate", [0] * ((_GROUPS + _DRAWS) * sizes), most=_TOGETHER)
    repeats, folds, verify = _SUSPECTS
    single, together = trainings_of(repeats, folds, verify, OutOfFold().folds)
    suspects = retraining.work("suspects", [0] * together)
    alone = single * retraining.steps * retraining.one.step
    return [
        curate._replace(seconds=curate.seconds + sweep.seconds),
        suspects._replace(
            seconds=suspects.seconds + alone + (1 + repeats) * sweep.seconds, trainings=together + single
        ),
    ]
