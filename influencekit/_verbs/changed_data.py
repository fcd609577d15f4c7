"""A recorded run trained again as if some of its examples had been others: with wrong labels, for one."""

from copy import copy
from dataclasses import replace

import torch

from influencekit._tape.recorded import Recorded
from influencekit._tape.replica import RecordedExamples
from influencekit._training.batch import NewEntries
from influencekit._training.in_memory import InMemory
from influencekit._training.parts import PartSource
from influencekit._training.workload import Workload
from influencekit._trajectory.rerun import rerun
from influencekit._trajectory.trajectory import Trajectory

__all__ = ["rerun_with"]


def rerun_with(trajectory: Trajectory, changed: NewEntries) -> Trajectory:
    """The run that training would have been with these examples, in memory.

    From the same start, on the same batches in the same order, with the same random draws; of a taped run
    through the recorded steps. Test data stay. Bit for bit what `record` makes of the changed workload. Cost:
    a training run. Errors: `DivergedError` where it leaves the finite numbers.
    """
    workload, source = _changed(trajectory, changed)
    vars(other := copy(trajectory)).update(
        workload=workload, step=trajectory.step.on(workload, source), reruns={}
    )
    return rerun(other)


def _changed(trajectory: Trajectory, changed: NewEntries) -> tuple[Workload, PartSource]:
    """The workload, and the parts of its steps, with these examples."""
    own, source = trajectory.workload, trajectory.step.source
    if isinstance(source, Recorded):
        call = replace(source.call, changed=changed)
        train = RecordedExamples(call, own.device)
        workload = replace(own, train=train, call=call)  # type: ignore[arg-type]
        return workload, replace(source, workload=workload, call=call)
    workload = copy(own)
    object.__setattr__(workload, "train", changed.within(own.train, torch.arange(own.n_train)))
    return workload, InMemory(workload)
