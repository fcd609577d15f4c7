"""The first steps of a run, in memory: what a plan is measured on."""

from copy import copy

from influencekit._training.step import Step
from influencekit._training.workload import Workload
from influencekit._trajectory.rerun import rerun
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.record import record

__all__ = ["first_steps"]

_HELD = 1 << 62  # bytes: no state of so few is left out


def first_steps(what: Trajectory | Workload, count: int, step: Step | None = None) -> Trajectory:
    """The states 0 ... count of a run, trained again, or of a workload, trained for the first time.

    A tape's notes are left behind, so that nothing but the sweep itself is timed. Cost: `count` steps.
    """
    if isinstance(what, Workload):
        return record(what, "full", window=(0, count), step=step)
    head = copy(what)
    head.last, head.ending = count, None
    return rerun(head, held=_HELD)
