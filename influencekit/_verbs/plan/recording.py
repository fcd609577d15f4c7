"""How a run is stored, or would be: by its first steps, recorded on a temporary disk, or by its store."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from influencekit._effects.pace import pace_of
from influencekit._training.step import Step
from influencekit._training.workload import Workload
from influencekit._trajectory.blocks import Limits
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.plan.disk import OnDisk, on_disk
from influencekit._verbs.plan.measure import Peak, line_of
from influencekit._verbs.plan.short import first_steps
from influencekit._verbs.plan.work import Work
from influencekit._verbs.record import record
from influencekit.errors import InputError
from influencekit.interfaces import Recorder
from influencekit.recorders import Full

__all__ = ["Recording", "recording_of"]

_SOON = 0.3  # seconds of training that the first steps may take
_MOST = 512  # of them
_CHUNK = 8 << 20  # bytes of states in one chunk, as in `Ledger`


class Recording(NamedTuple):
    """The states that are `stored` of a run of `steps`, and what a sweep over them may hold.

    `short`: its first steps; `disk`: the sizes of a store's parts, None of a run in memory; `work`: the
    recording itself, of a run that is still to be recorded.
    """

    short: Trajectory
    steps: int
    stored: Sequence[int]
    limits: Limits
    disk: OnDisk | None
    work: Work | None

    def by(self, recorder: Recorder) -> tuple[Sequence[int], Limits]:
        """What another recorder would store."""
        stored = recorder.stored_states(0, self.steps)
        return stored, Limits(self.limits.state, _rows(self.limits.state, len(stored)), recorder.max_states)


def recording_of(run: Workload | Trajectory, recorder: Recorder | None, peak: Peak) -> Recording:
    """Measure the recording of a workload, or look at the one that is there."""
    if isinstance(run, Trajectory):
        return _there(run)
    step = Step(run)
    chosen = Full() if recorder is None else recorder
    steps = step.plan.steps
    stored = chosen.stored_states(0, steps)
    sample = Full() if chosen.lossless else chosen
    peak.begin()
    with tempfile.TemporaryDirectory() as folder:
        done: list[tuple[int, Path]] = []

        def some(count: int) -> None:
            done.append((count, Path(folder) / f"{len(done)}.zarr"))
            record(run, sample, done[-1][1], (0, count), step=step)

        line = line_of(some, steps, run.device)
        disk = on_disk(max(done)[1])
    short = first_steps(run, max(2, line.timed) if steps > 1 else 1, step)
    each = pace_of(short, 1).step
    writing = max(0.0, line.step - each) * len(stored) / (steps + 1)
    memory = peak.bytes()
    state = (1 + len(run.optimizer.slots)) * run.theta0.nbytes
    seconds = line.first + steps * (min(each, line.step) + writing)
    work = Work("record", seconds, memory, disk.bytes(len(stored), steps), trainings=1)
    limits = Limits(state, _rows(state, len(stored)), chosen.max_states)
    return Recording(short, steps, stored, limits, disk, work)


def _there(run: Trajectory) -> Recording:
    workload = run.workload
    count = min(2, run.last)
    if count < 1:
        raise InputError("plan: the run holds no step; record some")
    began = time.process_time()
    short = first_steps(run, count)
    spent = (time.process_time() - began) / count
    if spent < _SOON and count < run.last:
        short = first_steps(run, min(run.last, _MOST, max(count, int(_SOON / spent))))
    state = (1 + len(workload.optimizer.slots)) * workload.theta0.nbytes
    chunk: int = run.group["theta"].chunks[0]  # type: ignore[union-attr]
    place = getattr(run.group.store, "root", None)
    disk = on_disk(Path(place)) if place is not None else None
    return Recording(short, run.last, run.stored_states, Limits(state, chunk, run.max_states), disk, None)


def _rows(state: int, states: int) -> int:
    """States in one chunk of a store."""
    return max(1, min(1000, states, _CHUNK // state))
