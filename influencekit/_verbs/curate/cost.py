"""What retraining will cost, found by training a few steps, and said before it begins."""

import time
from typing import NamedTuple

from torch import Tensor

from influencekit._bars import clock, note
from influencekit._effects.retrain import Strategy, capacity, strategy_of, train_together
from influencekit._trajectory.trajectory import Trajectory

__all__ = ["Plan", "say", "plan_of"]

_STEPS = 3  # that are timed
_LONG = 60  # seconds from which the plan is said
_TOGETHER = 64  # models that `set_effects` trains at once, where they fit


class Plan(NamedTuple):
    """So many sets, so many of them trained at once, and the seconds that all of them will take."""

    sets: int
    together: int
    seconds: float

    def __str__(self) -> str:
        at_once = f", {self.together} at a time" if self.together > 1 else ""
        return f"{self.sets} sets are retrained{at_once}: about {clock(self.seconds)}"


def plan_of(trajectory: Trajectory, sets: int, strategy: Strategy) -> Plan:
    """The plan for so many sets. Cost: four training steps of as many models as are trained at once."""
    step, first = trajectory.step, trajectory.first
    batched = strategy_of(trajectory, strategy) == "batch"
    together = min(sets, capacity(trajectory, _TOGETHER)) if batched else 1

    def train(steps: int) -> float:
        def coefficients(t: int) -> Tensor:
            return step.coefficients(t).expand(together, -1)

        began = time.perf_counter()
        for _ in train_together(trajectory, coefficients, first, {first + steps}):
            pass
        return time.perf_counter() - began

    some = min(_STEPS, trajectory.last - first - 1)
    if some < 1:  # of a single step there is nothing to time
        return Plan(sets, together, 0.0)
    train(1)  # what only the first step costs
    runs = -(-sets // together)
    return Plan(sets, together, train(some) / some * trajectory.steps * runs)


def say(plan: Plan) -> None:
    """Write the plan on stderr, where it is longer than a minute."""
    if plan.seconds > _LONG:
        note(f"curate: {plan}, beside the choosers' own time")
