"""The training step, linearised: from the adjoint of its mean gradient back to that of the state before it.

    a_t = a_{t+1} + H_t c,     <c, g_j> for every example j of the step,     g = sum_j (w_j / b) g_j

for any number of columns c [column, param]. One forward pass gives all three.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from influencekit._training.curvature import CURVATURES
from influencekit._training.kernels.products import Products, Pulled
from influencekit._training.parts import Part, PartSource
from influencekit._training.reverse import Reversed, pulled_back
from influencekit._training.state import State
from influencekit._training.traced import Traced
from influencekit.errors import InputError

__all__ = ["FAST", "Here", "LinearStep"]

FAST = "forward over reverse, traced"
_BLOCK = 16 << 20  # bytes of intermediate results that are computed ahead: more leave the caches


class Here(NamedTuple):
    """A step linearised at one state.

    `pull(c, a)`, of adjoints c [column, param] of the mean gradient and a [column, buffer] of the buffers
    after the step: (H c, <c, g_j> [column, slot], a before the step). It is called once, since intermediate
    results go meanwhile. `gradient` [param]: the mean gradient, penalty included; None where the optimizer's
    pullback does not read it.
    """

    pull: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    gradient: Tensor | None


class Gradients(Protocol):
    """What linearising needs of a `Step`."""

    source: PartSource
    notes: dict[str, str]

    @property
    def traced(self) -> Traced: ...
    @property
    def padded(self) -> bool: ...
    @property
    def prefers_loop(self) -> bool: ...
    def coefficients(self, t: int) -> Tensor: ...
    def gradient(self, state: State, coefficients: Tensor) -> tuple[Tensor, Tensor]: ...


class LinearStep:
    """The steps of a run, linearised in theta, buffers and the weights, for any number of adjoints at once.

    What does not depend on the adjoint is computed for many steps at once, where kernels are traced and torch
    can. Steps that hand buffers on go one after the other, by reverse over reverse.
    """

    def __init__(self, step: Gradients, curvature: str) -> None:
        if curvature not in CURVATURES:
            raise InputError(f"no curvature named {curvature!r}; choose one of {', '.join(CURVATURES)}")
        self._step, self._source, self._curvature = step, step.source, curvature
        self._wanted = step.source.workload.optimizer.needs_gradient()

    def backwards(self, states: Sequence[State]) -> Iterator[tuple[State, Here]]:
        """Consecutive states, last first, each with its step, linearised there.

        Errors: a model that has no second derivative.
        """
        if self._source.joint:
            yield from ((state, self._through_buffers(state)) for state in reversed(states))
            return
        waiting: list[tuple[State, list[tuple[Part, Products]]]] = []
        size = 0
        for state in reversed(states):
            known = self._known(state)
            waiting.append((state, known))
            size += sum(products.bytes for _, products in known)
            if size >= _BLOCK or not all(products.together for _, products in known):
                yield from self._ahead(waiting)
                waiting, size = [], 0
        yield from self._ahead(waiting)

    def _known(self, state: State) -> list[tuple[Part, Products]]:
        """The parts of a step, and what computes their products."""
        mean, found = self._step.coefficients(state.step), []
        for part in self._source.parts(state, self._step.padded):
            args = self._curvature, part, state.theta, mean[part.slots], self._step.prefers_loop, self._wanted
            found.append((part, self._step.traced.products_of(*args)))
            why = found[-1][1].why
            self._step.notes["derivatives"] = f"reverse over reverse: {why}" if why else FAST
        return found

    def _ahead(
        self, waiting: Sequence[tuple[State, list[tuple[Part, Products]]]]
    ) -> Iterator[tuple[State, Here]]:
        """Steps, their static parts computed at once where they can be."""
        inputs: dict[Products, list[Any]] = defaultdict(list)
        for state, known in waiting:
            mean = self._step.coefficients(state.step)
            for part, products in known:
                inputs[products].append((state.theta, part, mean[part.slots]))
        with self._source.protected():
            made = {products: iter(products.of(each)) for products, each in inputs.items()}
        for state, known in waiting:
            yield state, self._here(state, [(part, next(made[products])) for part, products in known])

    def _here(self, state: State, found: Sequence[tuple[Part, Pulled]]) -> Here:
        width = len(self._step.coefficients(state.step))
        products = [(part, pulled.columns) for part, pulled in found]  # without the gradients: they may go

        def pull(c: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            with self._source.protected():
                if products[0][0].whole:
                    return (*products[0][1](c), a)
                total, gradient_products = torch.zeros_like(c), c.new_zeros(len(c), width)
                for part, columns in products:
                    h, gradient_products[:, part.slots] = columns(c)
                    total += h
            return total, gradient_products, a

        return Here(pull, self._gradient(state, [pulled.gradient for _, pulled in found]))

    def _through_buffers(self, state: State) -> Here:
        self._step.notes["derivatives"] = "reverse over reverse, through the buffers or the whole batch"
        mean, parts = self._step.coefficients(state.step), self._source.parts(state)
        found = [Reversed.of(part, self._curvature, state.theta, mean[part.slots]) for part in parts]

        def pull(c: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            with self._source.protected():
                each = [pulled_back(found, *pair, len(mean)) for pair in zip(c, a, strict=True)]
            return tuple(torch.stack(x) for x in zip(*each, strict=True))  # type: ignore[return-value]

        gradients = [part.product.gradient() if self._wanted else None for part in found]
        return Here(pull, self._gradient(state, gradients))

    def _gradient(self, state: State, parts: Sequence[Tensor | None]) -> Tensor | None:
        if not self._wanted:
            return None
        if self._source.rounds:
            return self._step.gradient(state, self._step.coefficients(state.step))[0]
        first, *others = [g[: len(state.theta)] for g in parts if g is not None]
        return sum(others, first)
