"""The model that queries read at the end of a run, where it is not the last state: an average of states.

    theta = sum_t w_t theta_t,   sum_t w_t = 1

Sums are taken in float64, so that a retrained run's average and the recorded run's differ by what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from influencekit._training.state import State

__all__ = ["Ending", "PartialSum"]


class Ending(NamedTuple):
    """Which states the model at the end is made of: {state: weight} of the parameters, and of those buffers
    that training changes. `average` is what gave the weights; `asked` whether the user did, in so many words,
    and not a loop that loaded earlier weights again at its end."""

    weights: Mapping[int, float]
    of_buffers: Mapping[int, float]
    average: Any
    asked: bool = True

    @property
    def first(self) -> int:
        """The first state that counts."""
        return min(*self.weights, *self.of_buffers)

    @property
    def last(self) -> int:
        """The last one."""
        return max(*self.weights, *self.of_buffers)

    def states(self, start: int, stop: int) -> list[int]:
        """Those of the states start ... stop - 1 that count."""
        return sorted(t for t in {*self.weights, *self.of_buffers} if start <= t < stop)

    def describe(self, steps: int) -> str:
        """`state 120 of 400`, or `301 states, 100 to 400`."""
        mine = sorted(self.weights)
        return (
            f"state {mine[0]} of {steps}"
            if len(mine) == 1
            else f"{len(mine)} states, {mine[0]} to {mine[-1]}"
        )


class PartialSum:
    """sum_{t <= upto} w_t theta_t [..., param] and the same of the buffers, of one run or of several."""

    def __init__(self, ending: Ending, like: State, upto: int = -1) -> None:
        self._ending, self._like, self.upto = ending, like, upto
        self._theta = torch.zeros_like(like.theta, dtype=torch.float64)
        self._buffers = {n: torch.zeros_like(b, dtype=torch.float64) for n, b in like.buffers.items()}
        self._kept = dict(like.buffers)  # counters have no average: those of the last state that counts

    def copied(self, runs: int | None = None) -> Self:
        """One that goes its own way; `runs`: of so many runs at once, which are this one so far."""
        other = type(self).__new__(type(self))
        other.__dict__ = {**self.__dict__, "_buffers": {n: b.clone() for n, b in self._buffers.items()}}
        theta, like = self._theta, self._like.theta
        if runs is not None:
            theta, like = theta.expand(runs, -1), like.expand(runs, -1)
        other._theta, other._like, other._kept = (
            theta.clone(),
            self._like._replace(theta=like),
            {**self._kept},
        )
        return other

    def add(self, state: State, sign: int = 1) -> None:
        """Count a state; with sign -1, take it out again."""
        if weight := self._ending.weights.get(state.step):
            self._theta.add_(state.theta, alpha=sign * weight)
        if weight := self._ending.of_buffers.get(state.step):
            for name, total in self._buffers.items():
                total.add_(state.buffers[name], alpha=sign * weight)
            if state.step == max(self._ending.of_buffers):
                self._kept = dict(state.buffers)

    def move(self, upto: int, states: Callable[[list[int]], Iterable[State]]) -> None:
        """Count the states up to `upto`, and no others; `states` gives those of these numbers."""
        low, high = sorted((self.upto, upto))
        sign = 1 if upto > self.upto else -1
        if numbers := self._ending.states(low + 1, high + 1):
            for state in states(numbers):
                self.add(state, sign)
        self.upto = upto

    def value(self, step: int) -> State:
        """The sum as a state, which has no optimizer."""
        buffers = {
            n: total.to(self._kept[n].dtype) if self._kept[n].is_floating_point() else self._kept[n]
            for n, total in self._buffers.items()
        }
        return State(self._theta.to(self._like.theta.dtype), {}, step, buffers)

    @property
    def theta(self) -> Tensor:
        """The sum of the parameters, in float64."""
        return self._theta
