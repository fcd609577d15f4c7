"""Several runs of one plan, linearised together: the mean of their steps, of changed losses where wanted.

    H c = mean_k H_k c,        <c, g_j> = mean_k <c, g_j(theta_k)>,        grad q = mean_k grad q(theta_k)

A sweep along them is that of one run (`DIT.sweep`), with these in the place of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from influencekit._effects.centred import gradient_as_recorded
from influencekit._effects.query_gradient import query_gradient
from influencekit._training.batch import Batch, tensors_of
from influencekit._training.linear import Here, LinearStep
from influencekit._training.parts import Part, PartSource
from influencekit._training.state import State
from influencekit._training.step import Step
from influencekit._training.traced import Traced
from influencekit._trajectory.trajectory import Trajectory
from influencekit.interfaces import Query

__all__ = ["Change", "MeanOfRuns"]

Change = Callable[[Sequence[Part], Sequence[Tensor]], Sequence[Part]]
"""(the same part of a step in each run, each run's theta) -> the parts whose derivatives are taken."""


class MeanOfRuns:
    """The steps of several runs of one plan, linearised together: the means of their products over the runs.

    `runs` are of one plan, such as those of `weighted_runs`, and their optimizer's adjoint reads neither
    parameters nor gradient, as that of SGD without clipping. `change(parts, thetas)` is given the same part
    of a step in every run, with the runs' parameters, and gives the parts whose derivatives are taken in
    their place: losses may be others, and the batch may hold more tensors for them. Where kernels are traced
    it is given a single part; what it gives then must be of the same form.

    `backwards` and `gradient` are what `DIT.sweep` takes as `linear` and `gradient`, along the first run.
    Cost: that of a sweep for each run. Errors: `InputError` where the model has no second derivative.

    Example:

        >>> import influencekit as ik
        >>> import torch
        >>> from influencekit.estimators import DIT
        >>> from influencekit.extend import MeanOfRuns, scores_from_contributions, weighted_runs
        >>> run, query = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2")), "test-loss"
        >>> both = weighted_runs(run, torch.tensor([[0.9], [1.1]]).expand(2, 24))
        >>> mean, query = MeanOfRuns(both, lambda parts, thetas: parts), ik.make("query", "test-loss")
        >>> end = [((run.steps, 1),)]
        >>> found = DIT().sweep(both[0], query, end, 0, mean.gradient(run, query, 1), mean)
        >>> scores_from_contributions(run, query, [ik.Window(0, run.steps)], end, found).shape
        torch.Size([1, 1, 24])
    """

    def __init__(self, runs: Sequence[Trajectory], change: Change) -> None:
        runs[0].step.linear()  # which refuses a model that has no second derivative
        self._runs, self._together = list(runs), _Parts(runs, change)
        traced = self._together.traced()
        self._linear = [
            LinearStep(_Step(runs[0].step, run.step, self._together, k, traced), "hessian")
            for k, run in enumerate(runs)
        ]

    def backwards(self, states: Sequence[State]) -> Iterator[tuple[State, Here]]:
        """Consecutive states of the first run, last first, each with the mean of the runs' steps there."""
        low, high = states[0].step, states[-1].step + 1
        others = [_between(run, low, high) for run in self._runs[1:]]
        every = [list(states), *others]
        self._together.begin(every)
        pairs = zip(self._linear, every, strict=True)
        for each in zip(*(linear.backwards(mine) for linear, mine in pairs), strict=True):
            yield each[0][0], _mean([here for _, here in each])

    def gradient(
        self, trajectory: Trajectory, query: Query, times: int
    ) -> Callable[[State], tuple[Tensor, Tensor]]:
        """The mean of the query's gradients over the runs, at the number of a state: by theta and by buffers.

        `trajectory` is the recorded run, by which some queries are defined; `times`: as of `query_gradient`.
        """
        if type(query).at is not Query.at:
            recorded = gradient_as_recorded(trajectory, query)
            gradients = [recorded] * len(self._runs)
        else:
            gradients = [query_gradient(run, query, times) for run in self._runs]

        def mean(state: State) -> tuple[Tensor, Tensor]:
            pairs = zip(gradients, self._runs, strict=True)
            found = [gradient(run.evaluated(state.step)) for gradient, run in pairs]
            by_theta, by_buffers = (torch.stack(x).mean(0) for x in zip(*found, strict=True))
            return by_theta, by_buffers

        return mean


def _between(run: Trajectory, low: int, high: int) -> list[State]:
    blocks = list(run.blocks(low, high))
    return [state for block in reversed(blocks) for state in block]


def _mean(found: Sequence[Here]) -> Here:
    def pull(c: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        each = [here.pull(c, a) for here in found]
        h, gradient_products, before = (torch.stack(x).mean(0) for x in zip(*each, strict=True))
        return h, gradient_products, before

    return Here(pull, None)


class _Parts:
    """The changed parts of a step in all runs: made when the first run asks, kept until the last has."""

    def __init__(self, runs: Sequence[Trajectory], change: Change) -> None:
        self._step, self._change = runs[0].step, change
        self._states: list[list[State]] = []
        self._made: dict[int, dict[int, list[Part]]] = {}  # by step and run

    def begin(self, states: list[list[State]]) -> None:
        """Consecutive states of each run, of the same steps."""
        self._states, self._made = states, {}

    def of(self, k: int, t: int) -> list[Part]:
        """Those of run k at step t, once."""
        if t not in self._made:
            self._made[t] = dict(enumerate(self._make([mine[t - mine[0].step] for mine in self._states])))
        found = self._made[t].pop(k)
        if not self._made[t]:
            del self._made[t]
        return found

    def _make(self, states: Sequence[State]) -> list[list[Part]]:
        source, padded = self._step.source, self._step.padded
        with torch.no_grad(), source.protected():
            each = zip(*(source.parts(state, padded) for state in states), strict=True)
            made = [self._change(parts, [state.theta for state in states]) for parts in each]
        return [list(of_run) for of_run in zip(*made, strict=True)]

    def traced(self) -> Traced:
        """Kernels of the changed parts, which serve all runs."""
        source = self._step.source
        if source.eager or not source.traceable:
            return Traced(False, list)
        own, changed = self._example(0)
        if changed is own:
            return self._step.traced
        alike = len({len(x) for x in tensors_of(changed.batch)}) == 1  # a row for each slot, everywhere

        def others() -> list[tuple[Batch, Tensor]]:
            pairs = [(t, self._example(t)[1]) for t in (0, self._step.plan.steps - 1)]
            return [(part.batch, self._step.coefficients(t)[part.slots]) for t, part in pairs]

        return Traced(alike, others, 100.0 if source.rounds else 1.0)

    def _example(self, t: int) -> tuple[Part, Part]:
        """A part of step t at the initial parameters, and what is made of it."""
        source, theta = self._step.source, self._step.workload.theta0
        with torch.no_grad(), source.protected():
            part = next(source.parts(State(theta, {}, t), padded=True))
            (changed,) = self._change([part], [theta])
        return part, changed


class _Source:
    """The source of a run's steps, which gives the changed parts."""

    def __init__(self, source: PartSource, parts: _Parts, run: int) -> None:
        self._source, self._parts, self._run = source, parts, run
        self.workload, self.plan = source.workload, source.plan
        self.rounds, self.checked, self.changing = source.rounds, True, source.changing
        self.caution, self.joint, self.eager = source.caution, source.joint, source.eager
        self.traceable, self.alone, self.undivided = source.traceable, source.alone, source.undivided
        self.start, self.few, self.gradient = source.start, source.few, source.gradient

    def parts(self, state: State, padded: bool = False) -> Iterator[Part]:
        """The changed parts of a step."""
        yield from self._parts.of(self._run, state.step)

    def protected(self) -> AbstractContextManager[Any]:
        """That of the source."""
        return self._source.protected()


class _Step:
    """What linearising asks of a run's step, of which the parts are others."""

    def __init__(self, first: Step, own: Step, parts: _Parts, run: int, traced: Traced) -> None:
        self.source: PartSource = _Source(own.source, parts, run)
        self.traced, self.notes = traced, dict[str, str]()
        self.padded, self.prefers_loop = first.padded, first.prefers_loop
        self.coefficients, self.gradient = own.coefficients, own.gradient
