"""The recorded run's data and settings with the start and the batch order of another seed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from influencekit._arguments import short, whole_number
from influencekit._training.step import Step
from influencekit._training.workload import Workload
from influencekit._trajectory.fingerprint import digest
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.record import record
from influencekit.errors import InputError
from influencekit.interfaces import Recorder
from influencekit.registry import make

__all__ = ["Reseeded", "different", "first_of", "maker"]


@dataclass(frozen=True)
class Reseeded:
    """Another run on the same examples: of `make(seed)` it has the model and the order of batches alone.

    A bundled workload draws other examples with another seed; those, the test set and the settings stay.
    """

    make: Callable[[int], Workload]
    seed: int
    recorder: Recorder | str | None = None

    def __str__(self) -> str:
        return f"seed {self.seed}"

    def start(self, trajectory: Trajectory) -> str:
        """A digest of where it starts, and in what order. Cost: no training."""
        workload = self._workload(trajectory)
        return digest([workload.theta0, workload.plan.indices])

    def again(self, trajectory: Trajectory) -> Trajectory:
        """The other run. Cost: one training run."""
        workload = self._workload(trajectory)
        run = record(workload, self.recorder, step=Step(workload, like=trajectory.step))
        return run.with_ending(trajectory.ending)

    def _workload(self, trajectory: Trajectory) -> Workload:
        own, other = trajectory.workload, self.make(self.seed)
        if not isinstance(other, Workload):
            raise InputError(f"ceiling: expected a function seed -> Workload, and it gave {short(other)}")
        made = replace(own, model=other.model, seed=other.seed, order=other.order)
        alike = made.layout.names == own.layout.names and made.layout.shapes == own.layout.shapes
        if not alike or made.plan.indices.shape != own.plan.indices.shape:
            raise InputError(
                f"ceiling: seed {self.seed} makes another model or other batches; expected the same workload "
                "from another start"
            )
        if torch.equal(made.theta0, own.theta0) and torch.equal(made.plan.indices, own.plan.indices):
            raise InputError(
                f"ceiling: seed {self.seed} starts as the recorded run does, and would agree with it in "
                "everything; leave it out"
            )
        return made


def different(seeds: Any) -> list[int]:
    """Seeds, each its own run. Errors: none, two alike, no whole numbers."""
    if not isinstance(seeds, Iterable) or isinstance(seeds, str | bytes):
        raise InputError(f"seeds: expected a list of different whole numbers, got {short(seeds)}")
    found = [whole_number("seeds", seed, 0, 2**63 - 1) for seed in seeds]
    if not found or len(set(found)) != len(found):
        raise InputError(f"seeds must be different whole numbers, at least one; got {short(found)}")
    return found


def maker(workload: Any) -> Callable[[int], Workload]:
    """The function seed -> Workload that is meant. Errors: a run or a workload, which have one seed."""
    if isinstance(workload, str):
        return partial(_of_spec, workload)
    if isinstance(workload, Trajectory | Workload) or not callable(workload):
        what = "a recorded run" if isinstance(workload, Trajectory) else "a Workload"
        raise InputError(
            f"ceiling: seeds are for a spec or a function seed -> Workload, and {what} has no other start; "
            "leave seeds out (then the start is moved a little), or pass the spec"
        )
    return workload  # type: ignore[no-any-return]


def _of_spec(spec: str, seed: int) -> Workload:
    return make("workload", spec, seed=seed)  # type: ignore[no-any-return]


def first_of(workload: Any) -> Workload:
    """The workload whose run comes first: itself, or that of a spec or a function at seed 0."""
    if isinstance(workload, str):
        return make("workload", workload)  # type: ignore[no-any-return]
    if callable(workload) and not isinstance(workload, type | nn.Module | Workload):
        return workload(0)  # type: ignore[no-any-return]
    return workload  # type: ignore[no-any-return]
