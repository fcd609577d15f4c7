"""What a sweep costs: so many columns, over so many steps, some of which are replayed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from influencekit._effects.adjoint import Columns
from influencekit._effects.backward import evaluations_of
from influencekit._effects.pace import pace_of
from influencekit._trajectory.blocks import Limits, blocks_of, replayed
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.plan.measure import Peak, line_of
from influencekit._verbs.plan.work import Work
from influencekit.estimators.dit import DIT
from influencekit.interfaces import Query
from influencekit.windows import Window

__all__ = ["Sweep", "sweep_of"]

_COLUMNS = 1 << 30  # bytes of the columns of one pass, as in `DIT`


@dataclass(frozen=True)
class Sweep:
    """A sweep, measured: `first` seconds once; in every pass and step `step`, and `column` for each column.

    `passes`: the columns of each. `replay`: seconds of a step that is trained again. `peak` bytes of memory
    were in use with `in_memory` states of `state` bytes each.
    """

    passes: list[Columns]
    begin: int
    first: float
    step: float
    column: float
    replay: float
    peak: int | None
    in_memory: int
    state: int

    def work(self, name: str, stored: Sequence[int], limits: Limits) -> Work:
        """Over a run of which the states `stored` can be read."""
        seconds, held, again = self.first, 0, 0
        for each in self.passes:
            blocks = list(blocks_of(stored, self.begin, each.last, limits))
            again += replayed(stored, blocks, limits)
            held = max(held, *(min(b.high - b.low, b.places + 1) for b in blocks))
            seconds += (each.last - self.begin) * self.step
            seconds += sum(last - self.begin for last in each.begin) * self.column
        memory = None if self.peak is None else self.peak + max(0, held - self.in_memory) * self.state
        return Work(name, seconds + again * self.replay, memory, passes=len(self.passes), replayed=again)


def sweep_of(
    short: Trajectory, steps: int, query: Query, method: DIT, windows: Sequence[Window], peak: Peak
) -> Sweep:
    """Measure a sweep of `method` over the first steps, for a run of so many.

    Cost: sweeps of four steps, or of as many more as take half a second, with one evaluation of the query and
    with as many as there are at once.
    """
    n_query, capacity = len(query.labels(short.workload)), short.step.capacity(_COLUMNS)
    evaluations, device = evaluations_of(windows, steps), short.workload.device
    passes = list(Columns.passes(short, evaluations, n_query, capacity))

    def sweep(many: int, last: int) -> None:
        for _ in method.sweep(short, query, [((last, 1),)] * many, 0):
            pass

    peak.begin()
    few = line_of(partial(sweep, 1), short.last, device)
    many = max(1, min(len(evaluations), capacity // n_query))
    lots = line_of(partial(sweep, many), short.last, device) if many > 1 else few
    column = max(0.0, lots.step - few.step) / (n_query * max(1, many - 1))
    of_few = -(-n_query // capacity)  # passes
    return Sweep(
        passes=passes,
        begin=min(w.absent()[0] for w in windows),
        first=max(few.first, lots.first),
        step=max(0.0, few.step - column * n_query) / of_few,
        column=column,
        replay=pace_of(short, 1).step,
        peak=peak.bytes(),
        in_memory=few.timed,
        state=(1 + len(short.workload.optimizer.slots)) * short.workload.theta0.nbytes,
    )
