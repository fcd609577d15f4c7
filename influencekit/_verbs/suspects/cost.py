"""What the search for suspects will cost, said before it begins."""

from collections.abc import Mapping

from influencekit._bars import clock, note
from influencekit._effects.retrain import Strategy
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.curate.cost import LONG, plan_of
from influencekit.interfaces import Estimator

__all__ = ["say_cost", "trainings_of"]


def trainings_of(repeats: int, folds: int, verify: int, within: int) -> tuple[int, int]:
    """How many models are trained alone (plantings, and relabelled runs), and how many can be together;
    `within`: those that the scores of one run train."""
    verified = verify + 2 if verify else 0
    return repeats + verified, folds + within * (1 + repeats) + verified


def say_cost(
    trajectory: Trajectory, methods: Mapping[str, Estimator], repeats: int, folds: int, verify: int,
    strategy: Strategy,
) -> int:  # fmt: skip
    """How many trainings there will be; above a minute a line on stderr says so. Cost: a few steps."""
    notes = [method.notes(trajectory).get("retrained", 0) for method in methods.values()]
    within = sum(int(each) for each in notes)
    single, together = trainings_of(repeats, folds, verify, within)
    seconds = plan_of(trajectory, 1, strategy).seconds * single
    seconds += plan_of(trajectory, together, strategy).seconds
    count = single + together
    if seconds > LONG:
        scores = f"what {', '.join(methods)} take {repeats + 1} times"
        note(f"suspects: {count} trainings: about {clock(seconds)}, beside {scores}")
    return count
