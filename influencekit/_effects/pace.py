"""How fast models of a run are trained: measured on its first steps."""

import time
from typing import NamedTuple

from torch import Tensor

from influencekit._effects.retrain import Models, train_together
from influencekit._trajectory.trajectory import Trajectory

__all__ = ["Pace", "pace_of"]

_SOON = 0.5  # seconds of training that are timed, where steps are short
_FEW, _MANY = 2, 64  # steps that are timed, at least and at most


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
    found: list[Models] = []

    def train(steps: int) -> float:
        def coefficients(t: int) -> Tensor:
            return step.coefficients(t).expand(together, -1)

        began = time.perf_counter()
        found[:] = train_together(trajectory, coefficients, start, {start + steps})
        return time.perf_counter() - began

    there = trajectory.last - start - 1
    if there < 1:
        return Pace(0.0, 0.0, None)
    first = train(1)
    beginning = train(1)  # what every call costs once
    some = min(there, max(_FEW, min(_MANY, int(_SOON / max(beginning, 1e-9)))))
    each = max(0.0, train(1 + some) - beginning) / some
    return Pace(each, max(0.0, first - each), found[-1])
