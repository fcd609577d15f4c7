"""What choosing and retraining will cost, found by training a few steps, and said before it begins."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from influencekit._bars import clock, note
from influencekit._effects.pace import pace_of
from influencekit._effects.retrain import Strategy, capacity, strategy_of
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.curate.retraining import TOGETHER
from influencekit.interfaces import Claim, Estimator

__all__ = ["LONG", "Plan", "plan_of", "say", "say_scores"]

LONG = 60  # seconds from which the plan is said


class Plan(NamedTuple):
    """At most so many `sets` in each of `runs`, so many trained at once, and the seconds that all take.

    `exact` names the choosers that retrain without every example, in `exact_seconds`; each of `others` takes
    some training runs of `one_run` seconds.
    """

    sets: int
    runs: int
    together: int
    seconds: float
    one_run: float
    exact: tuple[str, ...] = ()
    exact_seconds: float = 0.0
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        at_once = f", {self.together} at a time" if self.together > 1 else ""
        runs = f" in each of {self.runs} runs" if self.runs > 1 else ""
        said = [f"at most {self.sets} sets are retrained{runs}{at_once}: about {clock(self.seconds)}"]
        if self.exact:
            said.append(f"the scores of {', '.join(self.exact)}: about {clock(self.exact_seconds)}")
        if self.others:
            one = f"{self.runs} x " if self.runs > 1 else ""
            said.append(
                f"those of {', '.join(self.others)}: {one}a few training runs each, of which one takes about "
                f"{clock(self.one_run)}"
            )
        return "; ".join(said)

    @property
    def known(self) -> float:
        """Seconds, those of the other choosers taken for three training runs each."""
        return self.seconds + self.exact_seconds + 3 * self.runs * len(self.others) * self.one_run


def plan_of(
    trajectory: Trajectory,
    sets: int,
    strategy: Strategy,
    methods: Mapping[str, Estimator] = MappingProxyType({}),
    runs: int = 1,
) -> Plan:
    """The plan for so many sets. Cost: that of `pace_of`, twice."""
    batched = strategy_of(trajectory, strategy) == "batch"
    together = min(sets, capacity(trajectory, TOGETHER)) if batched else 1
    exact = tuple(name for name, method in methods.items() if Claim.EXACT in method.claims)
    others = tuple(name for name in methods if name not in exact)

    if trajectory.last - trajectory.first < 2:  # of a single step nothing can be timed
        return Plan(sets, runs, together, 0.0, 0.0, exact, 0.0, others)
    steps, n = trajectory.steps, trajectory.workload.n_train
    batch = steps * pace_of(trajectory, together).step
    seconds, every = (runs * -(-count // together) * batch for count in (sets, n))
    one = steps * pace_of(trajectory, 1).step if together > 1 else batch
    return Plan(sets, runs, together, seconds, one, exact, len(exact) * every, others)


def say(plan: Plan) -> None:
    """Write the plan on stderr, where it is longer than a minute."""
    if plan.known > LONG:
        note(f"curate: {plan}")


def say_scores(seconds: float, left: int) -> None:
    """Write on stderr what scores in `left` further runs will take, where it is longer than a minute."""
    if seconds * left > LONG:
        note(f"curate: the scores took {clock(seconds)}; in {left} more runs: about {clock(seconds * left)}")
