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

from influencekit.errors import InputError
from influencekit.training.curvature import CURVATURES
from influencekit.training.kernels.products import Products, Pulled
from influencekit.training.parts import Part, PartSource
from influencekit.training.reverse import Reversed, pulled_back
from influencekit.training.state import State
from influencekit.training.traced import Traced

__all__ = ["FAST", "Here", "LinearStep"]

FAST = "forward over reverse, traced"
_LARGE = "reverse over reverse: the model is large or random"
_BUFFERS = "reverse over reverse, through the buffers or the whole batch"
_BLOCK = 16 << 20  # bytes of intermediate results that are computed ahead: more leave the caches


class Here(NamedTuple):
    """A step linearised at one state.

    `pull(c, a)`, of adjoints c [column, param] of the mean gradient and a [column, buffer] of the buffers
    after the step: (H c, <c, g_j> [column, slot], a before the step). `gradient` [param]: the mean gradient,
    penalty included; None where the optimizer's pullback does not read it.
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


class _Known(NamedTuple):
    """A part of a step, the coefficients of its examples, and what computes its products."""

    part: Part
    coefficients: Tensor
    products: Products


class LinearStep:
    """The steps of a run, linearised in theta, buffers and the weights, for any number of adjoints at once.

    What does not depend on the adjoint is computed for many steps at once, where kernels are traced and torch
    can; elsewhere one part goes after the other, by reverse over reverse.
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
        waiting: list[tuple[State, list[_Known]]] = []
        size = 0
        for state in reversed(states):
            known = self._known(state) if self._source.traceable else []
            if ahead := bool(known) and all(each.products.together for each in known):
                waiting.append((state, known))
                size += sum(each.products.bytes for each in known)
            if not ahead or size >= _BLOCK:
                yield from self._together(waiting)
                waiting, size = [], 0
            if not ahead:
                yield state, self._alone(state, known)
        yield from self._together(waiting)

    def _known(self, state: State) -> list[_Known]:
        mean, found = self._step.coefficients(state.step), []
        for part in self._source.parts(state, self._step.padded):
            coefficients = mean[part.slots]
            products = self._step.traced.products_of(
                self._curvature, part, state.theta, coefficients, self._step.prefers_loop, self._wanted
            )
            found.append(_Known(part, coefficients, products))
            self._step.notes["derivatives"] = (
                f"reverse over reverse: {products.why}" if products.why else FAST
            )
        return found

    def _together(self, waiting: Sequence[tuple[State, list[_Known]]]) -> Iterator[tuple[State, Here]]:
        """Steps whose static parts are computed at once."""
        inputs: dict[Products, list[Any]] = defaultdict(list)
        for state, known in waiting:
            for part, coefficients, products in known:
                inputs[products].append((state.theta, part.batch, coefficients))
        made = {products: iter(products.of(each)) for products, each in inputs.items()}
        for state, known in waiting:
            yield state, self._here(state, [(part.slots, next(made[p])) for part, _, p in known])

    def _alone(self, state: State, known: Sequence[_Known]) -> Here:
        if known and not any(each.products.why for each in known):
            inputs = [(state.theta, each.part.batch, each.coefficients) for each in known]
            pulled = [each.products.of([args])[0] for each, args in zip(known, inputs, strict=True)]
            return self._here(state, [(each.part.slots, p) for each, p in zip(known, pulled, strict=True)])
        if not known:
            self._step.notes["derivatives"] = _BUFFERS if self._source.joint else _LARGE
        mean = self._step.coefficients(state.step)
        parts = [each.part for each in known] or self._source.parts(state)
        found = [Reversed.of(part, self._curvature, state.theta, mean[part.slots]) for part in parts]

        def pull(c: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            with self._source.protected():
                each = [pulled_back(found, *pair, len(mean)) for pair in zip(c, a, strict=True)]
            return tuple(torch.stack(x) for x in zip(*each, strict=True))  # type: ignore[return-value]

        return Here(pull, self._gradient(state, [part.product.gradient for part in found]))

    def _here(self, state: State, found: Sequence[tuple[Tensor | slice, Pulled]]) -> Here:
        gradient = self._gradient(state, [lambda p=p: p.gradient for _, p in found])  # type: ignore[misc]
        if len(found) == 1 and found[0][0] == slice(None):
            columns = found[0][1].columns
            return Here(lambda c, a: (*columns(c), a), gradient)
        width = len(self._step.coefficients(state.step))

        def pull(c: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            total, gradient_products = torch.zeros_like(c), c.new_zeros(len(c), width)
            for slots, pulled in found:
                h, gradient_products[:, slots] = pulled.columns(c)
                total = total + h
            return total, gradient_products, a

        return Here(pull, gradient)

    def _gradient(self, state: State, parts: Sequence[Callable[[], Tensor]]) -> Tensor | None:
        if not self._wanted:
            return None
        if self._source.rounds:
            return self._step.gradient(state, self._step.coefficients(state.step))[0]
        first, *others = [part()[: len(state.theta)] for part in parts]
        return sum(others, first)
