"""The training step pulled back: from an adjoint of the mean gradient, a curvature product and all shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import vmap

from influencekit.curvature import CURVATURES, Losses, Pair
from influencekit.errors import InputError
from influencekit.tracing import split, try_trace
from influencekit.widths import widened
from influencekit.workload import Batch, like, tensors_of

if TYPE_CHECKING:
    from influencekit.step import State, Step

__all__ = ["Kernels", "LinearStep", "Product"]

Product = Callable[[Tensor], Pair]

_BLOCK = 128 << 20  # bytes of intermediate results that are computed ahead for several steps


class Kernels:
    """c [column, param] -> (H c, <c, g_j> [column, slot]) on batches of one shape, for any number of columns.

    The kernels are split: those that do not depend on c run once a step, the others for all columns
    together, or, where `loops` (Step.loops) says so or they could not be traced, for one after the other.
    `traceable` = False leaves the functions as they are: what they do differs from call to call.
    """

    def __init__(
        self, losses: Losses, curvature: str, loops: bool, theta: Tensor, batch: Batch, coefficients: Tensor,
        traceable: bool = True,
    ) -> None:  # fmt: skip
        if curvature not in CURVATURES:
            raise InputError(f"no curvature named {curvature!r}; choose one of {', '.join(CURVATURES)}")
        product = CURVATURES[curvature]

        def at(theta: Tensor, *rest: Tensor) -> Pair:
            return product(losses, theta, like(batch, rest[:-2]), rest[-2], rest[-1])

        inputs, c = (theta, *tensors_of(batch), coefficients), theta.clone()
        whole = try_trace(at, *inputs, c) if traceable else at
        self.static: Callable[..., tuple[Tensor, ...]]
        self.later: Callable[..., Pair]
        self._many: Callable[..., Pair] | None = None
        self.together = not loops and isinstance(whole, torch.fx.GraphModule)
        self.bytes = sum(x.nbytes for x in inputs)
        if not isinstance(whole, torch.fx.GraphModule):
            self.static, self.later = (lambda *args: args), _one_by_one(lambda c, *args: at(*args, c))
            return
        static, later = split(whole, [len(inputs)])
        self.static, self._one = static.forward, later.forward  # not __call__: its hooks cost more
        with torch.no_grad():
            values = self.static(*inputs)
        self.bytes = sum(x.nbytes for x in (*values, *inputs[1:-1]))
        self.later = self._together if self.together else _one_by_one(self._one)

    def _together(self, c: Tensor, *values: Tensor) -> Pair:
        if len(c) == 1:
            product, shares = self._one(c[0], *values)
            return product[None], shares[None]
        if self._many is None:
            self._many = widened(self._one, c[0].clone(), *values)
        return self._many(c, *values)

    def product(self, theta: Tensor, batch: Batch, coefficients: Tensor) -> Product:
        """The function c -> (H c, shares) of one step."""
        values = self.static(theta, *tensors_of(batch), coefficients)
        return lambda c: self.later(c, *values)


class LinearStep:
    """Transposed derivative of the step: one curvature product and every example's share, per column.

    From c [column, param], the adjoint of the mean gradient: H c and <c, g_j> for every slot j. What does not
    depend on c is computed for many steps at once, where `Step.loops` is false.
    """

    def __init__(self, step: Step, kernels: Kernels) -> None:
        self._step, self._kernels = step, kernels
        self._room = max(1, _BLOCK // kernels.bytes) if kernels.together else 1

    def backwards(self, states: Sequence[State]) -> Iterator[tuple[State, Product]]:
        """Consecutive states, last first, each with its function c -> (H c, shares [column, slot])."""
        for high in range(len(states), 0, -self._room):
            some = states[max(0, high - self._room) : high]
            yield from zip(reversed(some), reversed(self._products(some)), strict=True)

    def _products(self, states: Sequence[State]) -> list[Product]:
        first, step, kernels = states[0].step, self._step, self._kernels
        if not kernels.together:
            return [kernels.product(states[0].theta, step.batch(first), step.coefficients(first))]
        span = slice(first, first + len(states))
        thetas = torch.stack([state.theta for state in states])
        shared = vmap(kernels.static)(thetas, *tensors_of(step.batch(span)), step.coefficients(span))
        each = zip(*[x.unbind(0) for x in shared], strict=True)
        return [lambda c, values=values: kernels.later(c, *values) for values in each]  # type: ignore[misc]


def _one_by_one(later: Callable[..., Pair]) -> Callable[..., Pair]:
    """`later` of one column, for c [column, param]."""

    def each(c: Tensor, *values: Tensor) -> Pair:
        products, shares = zip(*[later(row, *values) for row in c], strict=True)
        return torch.stack(products), torch.stack(shares)

    return each
