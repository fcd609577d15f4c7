"""The adjoint of a run on its way back, and the columns that it consists of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from influencekit._training.buffers import flat
from influencekit._training.state import State
from influencekit._training.step import Step
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InputError
from influencekit.interfaces import Contributions

__all__ = ["Adjoint", "Columns", "Gathered", "Signs"]

Signs = tuple[tuple[int, int], ...]  # (state, sign): the signed sum of q's effects at these states


@dataclass(frozen=True)
class Columns:
    """What each column of an adjoint is for: a signed sum of evaluations of one value of the query.

    Column k is evaluation of[k] of those asked for, `signs[k]` are its {state: sign}, query[k] is the number
    of the value, and begin[k] the last state that the evaluation reads. The latest column comes first.
    """

    of: list[int]
    query: list[int]
    signs: list[dict[int, int]]
    begin: list[int]

    @classmethod
    def passes(
        cls, trajectory: Trajectory, evaluations: Sequence[Signs], n_query: int, room: int
    ) -> Iterator[Columns]:
        """All columns, `room` of them at a time; of several ranks that cannot divide batches, this one's."""
        begin = [max(trajectory.last_read(t) for t, _ in each) for each in evaluations]
        order = sorted(range(len(evaluations)), key=lambda k: -begin[k])
        pairs = [(k, q) for k in order for q in range(n_query)]
        if (ranks := trajectory.step.ranks) is not None and (why := trajectory.step.source.undivided):
            if len(pairs) < 2:
                raise InputError(
                    f"{why}, so the ranks cannot divide a batch, only several queries or windows among them, "
                    "and one was asked for; ask for more at once, or use one process"
                )
            pairs = pairs[ranks.rank :: ranks.size]
        for i in range(0, len(pairs), room):
            of, query = (list(x) for x in zip(*pairs[i : i + room], strict=True))
            yield cls(of, query, [dict(evaluations[k]) for k in of], [begin[k] for k in of])

    def __len__(self) -> int:
        return len(self.of)

    @property
    def last(self) -> int:
        """The latest state that is read: the sweep begins there."""
        return self.begin[0]


class Adjoint:
    """The columns of the adjoint that have begun, at one state: of theta, optimizer and buffers.

    A column begins where the sweep, on its way back, meets the last state that it reads; `end` is the state
    where the first one does. `gradient(state)` is that of the query by theta [query, param] and by the
    buffers [query, buffer].
    """

    def __init__(
        self, trajectory: Trajectory, columns: Columns, end: State,
        gradient: Callable[[State], tuple[Tensor, Tensor]],
    ) -> None:  # fmt: skip
        self._workload, self._plan, self._step = trajectory.workload, trajectory.plan, trajectory.step
        self._columns, self._gradient = columns, gradient
        self._at: dict[int, list[tuple[int, float, float]]] = defaultdict(list)
        for t in sorted(set().union(*columns.signs)):
            of_theta, of_buffers = trajectory.weights(t)
            for s in {*of_theta, *of_buffers}:
                self._at[s].append((t, of_theta.get(s, 0.0), of_buffers.get(s, 0.0)))
        self._trajectory = trajectory
        self._at_end: tuple[Tensor, Tensor] | None = None  # the gradient at an average, which is asked once
        theta0 = self._workload.theta0
        self._theta = theta0.new_zeros(0, len(theta0))
        self._slots = {name: self._theta for name in self._workload.optimizer.slots}
        self._buffers = theta0.new_zeros(0, len(flat(end.buffers, theta0)))

    def reads(self, state: State) -> bool:
        """Whether an evaluation reads this state."""
        return state.step in self._at

    def inject(self, state: State) -> None:
        """a <- a + sign * weight * (gradient of q) in the columns whose evaluations read this state.

        An evaluation reads one state, with weight 1; at the end of a run of which an average is asked, each
        state of it, with the gradient of q at the average.
        """
        if not self.reads(state):
            return
        if more := self._columns.begin.count(state.step):
            self._theta, self._buffers = _grown(self._theta, more), _grown(self._buffers, more)
            self._slots = {name: _grown(x, more) for name, x in self._slots.items()}
        here = self._columns.signs[: len(self._theta)]
        which = self._columns.query[: len(here)]
        for t, weight, of_buffers_weight in self._at[state.step]:
            of_theta, of_buffers = self._gradient_at(t, state)
            for column, (signs, q) in enumerate(zip(here, which, strict=True)):
                if sign := signs.get(t, 0):
                    self._theta[column].add_(of_theta[q], alpha=sign * weight)
                    self._buffers[column].add_(of_buffers[q], alpha=sign * of_buffers_weight)

    def _gradient_at(self, t: int, state: State) -> tuple[Tensor, Tensor]:
        """Of the evaluation at `t`, met at `state`."""
        if self._trajectory.ending is None or t != self._trajectory.steps:
            return self._gradient(state)
        if self._at_end is None:
            self._at_end = self._gradient(self._trajectory.evaluated(t))
        return self._at_end

    def through_optimizer(self, state: State, g: Tensor | None) -> Tensor:
        """c [column, param], the adjoint of the mean gradient g of the step from `state`; a is that of theta
        and of the optimizer before it."""
        t, workload = state.step, self._workload
        c, self._theta, self._slots = self._step.optimizer_at(t).pullback(
            workload.layout, state.theta, state.slots, g, self._plan.updates + t, self._plan.lrs(t),
            self._theta, self._slots, overwrite=True,
        )  # fmt: skip
        return c

    def through_gradient(
        self, pull: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]], c: Tensor
    ) -> Tensor:
        """The products <c, g_j> [column, slot]; a <- a + H c, and the buffers' adjoint before the step.
        `pull` is that of the step linearised (`Here`)."""
        product, gradient_products, self._buffers = pull(c, self._buffers)
        self._theta += product
        return gradient_products


def _grown(x: Tensor, more: int) -> Tensor:
    """x [column, entry] with so many columns more, which are zero."""
    zero = x.new_zeros(more, x.shape[1])
    return torch.cat([x, zero]) if len(x) else zero


class Gathered:
    """Contributions of consecutive steps, as the sweep finds them."""

    def __init__(self, step: Step, states: Sequence[State], columns: Columns) -> None:
        self._columns, self._steps = columns, slice(states[0].step, states[0].step + len(states))
        self._mean = step.of_examples(self._steps)
        self._values = self._mean.new_zeros(len(states), len(columns), self._mean.shape[1])

    def add(self, t: int, gradient_products: Tensor) -> None:
        """The products <c, g_j> [column, slot] of step t, of the columns that have begun."""
        self._values[t - self._steps.start, : len(gradient_products)] = gradient_products

    def contributions(self) -> Contributions:
        """C = -<c, g_j> / b, 0 in the columns that begin before their step, and where there is no example."""
        columns = self._columns
        return Contributions(self._steps, columns.of, columns.query, self._values * -self._mean[:, None])
