"""How fast models of a run are trained: measured on its first steps."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from influencekit._effects.retrain import Models, train_together
from influencekit._trajectory.trajectory import Trajectory

__all__ = ["Pace", "Stopwatch", "pace_of"]

_SOON = 0.5  # seconds of training that are timed, where steps are short
_FEW, _MANY = 2, 64  # steps that are timed, at least and at most


class Stopwatch:
    """Times pieces of work by the processor's clock, which other programs do not disturb.

    `wall` turns its seconds into those of the wall, by the ratio of all pieces together. On a GPU the clock
    is the wall's from the start.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._clock = time.perf_counter if self._gpu else time.process_time
        self._sums = [0.0, 0.0]

    def seconds(self, work: Callable[[], object]) -> float:
        """Of some work, by this clock."""
        began, wall = self._clock(), time.perf_counter()
        work()
        if self._gpu:
            torch.cuda.synchronize()
        spent = self._clock() - began, time.perf_counter() - wall
        self._sums = [a + b for a, b in zip(self._sums, spent, strict=True)]
        return spent[0]

    def wall(self, seconds: float) -> float:
        """Seconds of this clock as those of the wall."""
        own, wall = self._sums
        return seconds * wall / own if own else seconds


class Pace(NamedTuple):
    """Seconds of a training step of `models` models `together`, and of what only the first call costs.

    `models` are those that the last timed step gave.
    """

    step: float
    first: float
    models: Models | None

    def seconds(self, steps: int) -> float:
        """Of training them so many steps."""
        return self.first + steps * self.step


def pace_of(trajectory: Trajectory, together: int) -> Pace:
    """The pace of so many models at once. Cost: four training steps of all, and up to 64 where they are
    short. Of a run of a single step, no step can be timed: 0."""
    step, start = trajectory.step, trajectory.first
    watch = Stopwatch(trajectory.workload.device)
    found: list[Models] = []

    def train(steps: int) -> float:
        def coefficients(t: int) -> Tensor:
            return step.coefficients(t).expand(together, -1)

        def work() -> None:
            found[:] = train_together(trajectory, coefficients, start, {start + steps})

        return watch.seconds(work)

    there = trajectory.last - start - 1
    if there < 1:
        return Pace(0.0, 0.0, None)
    first = train(1)
    beginning = train(1)  # what every call costs once
    some = min(there, max(_FEW, min(_MANY, int(_SOON / max(beginning, 1e-9)))))
    each = max(0.0, train(1 + some) - beginning) / some
    return Pace(watch.wall(each), watch.wall(max(0.0, first - each)), found[-1])
