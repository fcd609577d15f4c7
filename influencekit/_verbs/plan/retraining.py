"""What retraining costs: so many models, so many trained at once, each from where it first differs."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch

from influencekit._effects.pace import Pace, pace_of
from influencekit._effects.retrain import Strategy, Weighting, capacity, changed, query_at, strategy_of
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.plan.measure import Peak, line_of
from influencekit._verbs.plan.work import Work
from influencekit.interfaces import Query

__all__ = ["Retraining", "retraining_of", "starts_of"]

_MOST = 512  # models at once, as in `retrained`


class Retraining(NamedTuple):
    """Training for a run of `steps`, measured: `one` model, and `together` at once; asking these the query
    takes `ask` seconds."""

    steps: int
    together: int
    one: Pace
    many: Pace
    ask: float
    peak: int | None

    def alone(self) -> Self:
        """The same models, one after the other."""
        return self._replace(together=1, many=self.one, ask=self.ask / self.together)

    def work(self, name: str, starts: Sequence[int], runs: int = 1, most: int = _MOST) -> Work:
        """Of models that begin at the steps `starts`, in each of `runs` runs."""
        size, order = min(self.together, most), sorted(starts)
        seconds = self.many.first
        for k in range(0, len(order), size):
            fraction = len(order[k : k + size]) / self.together
            each = max(self.one.step, fraction * self.many.step)
            seconds += runs * ((self.steps - order[k]) * each + fraction * self.ask)
        seconds += (runs - 1) * self.steps * self.one.step  # the other runs themselves
        trainings = runs * len(order) + runs - 1
        return Work(name, seconds, self.peak, trainings=trainings, together=min(size, len(order)))


def retraining_of(
    short: Trajectory, steps: int, query: Query, models: int, strategy: Strategy, peak: Peak
) -> Retraining:
    """Measure the training of up to so many models at once. Cost: that of `pace_of`, for one and for all."""
    batched = models > 1 and strategy_of(short, strategy) == "batch"
    together = min(models, capacity(short, _MOST)) if batched else 1
    peak.begin()
    one = pace_of(short, 1)
    many = pace_of(short, together) if together > 1 else one
    ask = 0.0
    if many.models is not None:
        values = query_at(short, query, [many.models.state])
        ask = line_of(lambda _: values(many.models), 1, short.workload.device).step  # type: ignore
    return Retraining(steps, together, one, many, ask, peak.bytes())


def starts_of(run: Trajectory, examples: int | None = None) -> list[int]:
    """The steps at which leaving out examples (all, or the first so many) begins to matter; an example that
    no step holds is not trained without."""
    count = min(run.workload.n_train, examples or run.workload.n_train)
    without = [Weighting(position[None]) for position in torch.arange(count)]
    return [t for t in changed(run, without, (0, run.steps)) if t >= 0]
