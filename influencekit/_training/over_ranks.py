"""The step linearised by several ranks together: each takes a block of the slots of every batch.

    H c = sum over ranks r of  sum_{i in block r} (w_i / b) H_i c      (all-reduced, as is the mean gradient)
    <c, g_j>                                                           (stays where slot j is; 0 elsewhere)

The model is not wrapped. All ranks have the same state, replayed by each, and the same adjoint, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from influencekit._training.batch import Batch, mapped, tensors_of
from influencekit._training.linear import Gradients, Here, LinearStep
from influencekit._training.parts import Part, PartSource
from influencekit._training.ranks import Ranks
from influencekit._training.state import State
from influencekit._training.traced import Traced

__all__ = ["LinearOverRanks"]


class LinearOverRanks:
    """What `LinearStep` is, of all ranks together."""

    def __init__(self, step: Gradients, curvature: str, ranks: Ranks) -> None:
        self._ranks, self._own = ranks, _Block(step, ranks)
        self._linear = LinearStep(self._own, curvature)
        self._rounds = step.source.rounds

    def backwards(self, states: Sequence[State]) -> Iterator[tuple[State, Here]]:
        """Consecutive states, last first, each with its step; the products are this rank's."""
        for state, here in self._linear.backwards(states):
            yield state, self._together(here)

    def _together(self, here: Here) -> Here:
        def pull(c: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            product, gradient_products, a = here.pull(c, a)
            return self._ranks.summed(product.contiguous()), gradient_products * self._own.mine, a

        g = here.gradient
        if g is not None and not self._rounds:  # the loop's own rounding: every rank has taken it whole
            g = self._ranks.summed(g.clone())
        return Here(pull, g)


class _Block:
    """What linearising asks of a step, of which only this rank's slots count."""

    def __init__(self, step: Gradients, ranks: Ranks) -> None:
        self._step, width = step, len(step.coefficients(0))
        block = ranks.block(width)
        self.mine = torch.zeros_like(step.coefficients(0))
        self.mine[block] = 1
        self.source: PartSource = _Blocks(step.source, block, width)
        self.notes, self.padded, self.prefers_loop = step.notes, step.padded, step.prefers_loop
        self.gradient = step.gradient
        self.traced = Traced(step.source.traceable, self._others, 100.0 if step.source.rounds else 1.0)

    def coefficients(self, t: int) -> Tensor:
        """w_i / b of this rank's slots, 0 in the others."""
        return self._step.coefficients(t) * self.mine

    def _others(self) -> list[tuple[Batch, Tensor]]:
        if self.source.eager:
            return []
        times = (0, self.source.plan.steps - 1)
        theta = self.source.workload.theta0
        parts = [next(self.source.parts(State(theta, {}, t), padded=True)) for t in times]
        return [(part.batch, self.coefficients(t)[part.slots]) for part, t in zip(parts, times, strict=True)]


class _Blocks:
    """The source of a step's parts, of which it gives the examples in a block of the slots."""

    def __init__(self, source: PartSource, block: slice, width: int) -> None:
        self._source, self._block, self._width = source, block, width
        self.workload, self.plan = source.workload, source.plan
        self.rounds, self.checked, self.changing = source.rounds, source.checked, source.changing
        self.caution, self.joint, self.eager = source.caution, source.joint, source.eager
        self.traceable, self.alone, self.undivided = source.traceable, source.alone, source.undivided
        self.start, self.few, self.gradient = source.start, source.few, source.gradient

    def protected(self) -> AbstractContextManager[Any]:
        """That of the source."""
        return self._source.protected()

    def parts(self, state: State, padded: bool = False) -> Iterator[Part]:
        """Of each part what lies in the block. Where nothing does, one example, whose coefficient is 0."""
        first, found = None, False
        for part in self._source.parts(state, padded):
            first = first or part
            if (mine := self._within(part)) is not None:
                found = True
                yield mine
        if not found:
            assert first is not None, "a step has parts"
            yield self._rows(first, 0, 1)

    def _within(self, part: Part) -> Part | None:
        slots, count = self._slots(part), len(tensors_of(part.batch)[0])
        low, high = (int((slots[:count] < end).sum()) for end in (self._block.start, self._block.stop))
        if low < high:
            return self._rows(part, low, high)
        penalty = slots[count:]  # the slot that is no example's, if there is one: it needs some example
        within = (penalty >= self._block.start) & (penalty < self._block.stop)
        return self._rows(part, 0, 1) if bool(within.any()) else None

    def _rows(self, part: Part, low: int, high: int) -> Part:
        slots, count = self._slots(part), len(tensors_of(part.batch)[0])
        chosen = torch.cat([slots[low:high], slots[count:]])
        return part._replace(slots=chosen, batch=mapped(part.batch, lambda x: x[low:high]))

    def _slots(self, part: Part) -> Tensor:
        """The slots [example, and the penalty's] of a part, ascending."""
        if isinstance(part.slots, slice):
            return torch.arange(self._width, device=tensors_of(part.batch)[0].device)[part.slots]
        return part.slots
