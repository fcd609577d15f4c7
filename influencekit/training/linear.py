"""The training step pulled back: from an adjoint of the mean gradient, a curvature product and all examples'
products.

The slow path (`curvature.REVERSE`) differentiates backwards twice, one column after the other. The fast one
traces forward derivatives, where every kernel is known to have a right one, splits off what does not depend
on the adjoint, and takes all columns together. It is believed once it gives what the slow one gives on other
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, fx
from torch.func import vmap

from influencekit.errors import InputError
from influencekit.training.batch import Batch, tensors_of, with_tensors
from influencekit.training.curvature import CURVATURES, FORWARD, REVERSE, Losses, Pair, leaf
from influencekit.training.kernels.batched_trace import batched_trace
from influencekit.training.kernels.operators import FORWARD as FORWARD_OPERATORS
from influencekit.training.kernels.tracing import Untraced, agree, split, try_trace
from influencekit.training.losses import Training

if TYPE_CHECKING:
    from influencekit.training.state import State
    from influencekit.training.step import Step

__all__ = ["FAST", "Kernels", "LinearStep", "Part", "Product", "composed", "how"]

Pulled = tuple[Tensor, Tensor, Tensor]
Product = Callable[[Tensor, Tensor], Pulled]
Columns = Callable[[Tensor], Pair]  # c [column, param] -> (H c, <c, g_j> [column, slot])

_BLOCK = 128 << 20  # bytes of intermediate results that are computed ahead for several steps


class Kernels:
    """c [column, param] -> (H c, <c, g_j> [column, slot]) on batches of one shape, for any number of columns.

    `gradient` is the traced gradient of the same batches, or whatever else there is of it: its kernels decide
    whether the fast path is tried. `other` is a second batch of that shape. `why` says what kept the fast
    path from being taken, "" where it is.
    """

    def __init__(
        self, losses: Losses, curvature: str, loops: bool, gradient: Callable[..., object], z: Tensor,
        batch: Batch, coefficients: Tensor, other: Batch,
    ) -> None:  # fmt: skip
        if curvature not in CURVATURES:
            raise InputError(f"no curvature named {curvature!r}; choose one of {', '.join(CURVATURES)}")
        self._losses, self._slow = losses, REVERSE[curvature]
        self.inputs = (z, *tensors_of(batch), coefficients)
        self.bytes, self.together = sum(x.nbytes for x in self.inputs), False
        self._static: Callable[..., tuple[Tensor, ...]] | None = None
        self._many: Callable[..., Pair] | None = None
        self.why = _not_forward(gradient)
        if not self.why:
            self.why = self._trace(curvature, batch, other, loops)

    def _trace(self, curvature: str, batch: Batch, other: Batch, loops: bool) -> str:
        """Take the fast path; why not, if not."""
        product, losses, inputs = FORWARD[curvature], self._losses, self.inputs

        def at(z: Tensor, *rest: Tensor) -> Pair:
            return product(losses, z, with_tensors(batch, rest[:-2]), rest[-2], rest[-1])

        def slow(*args: Tensor) -> Pair:
            return self._slow(losses, args[0], with_tensors(batch, args[1:-2]), args[-2])(args[-1])

        z = inputs[0]
        c = _another(z)
        others = [(z + 0.01 * c * z.std(correction=0), *tensors_of(other), inputs[-1], c)]
        whole = try_trace(at, *inputs, c, others=others, slow=slow)
        if not isinstance(whole, fx.GraphModule):
            assert isinstance(whole, Untraced)
            return whole.why
        static, later = split(whole, [len(inputs)])
        self._static, self._one = static.forward, later.forward  # not __call__: its hooks cost more
        with torch.no_grad():
            values = self._static(*inputs)
        self.bytes = sum(x.nbytes for x in (*values, *inputs[1:-1]))
        self.together = not loops and self._batches(others[0])
        return ""

    def _batches(self, other: Sequence[Tensor]) -> bool:
        """Whether the static part of several steps can be computed together: each gives what it gives
        alone."""
        mine, c = self.inputs, other[-1]
        assert self._static is not None
        try:
            with torch.no_grad():
                wanted = [self._one(c, *self._static(*args)) for args in (mine, other[:-1])]
                stacked = [torch.stack(pair) for pair in zip(mine, other[:-1], strict=True)]
                found = [self._one(c, *values) for values in self._unstacked(stacked)]
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return False
        return agree(found, wanted)

    def _unstacked(self, stacked: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """The static values of each of several steps, whose inputs are stacked."""
        assert self._static is not None
        return list(zip(*[x.unbind(0) for x in vmap(self._static)(*stacked)], strict=True))

    def _together(self, c: Tensor, *values: Tensor) -> Pair:
        if len(c) == 1:
            product, products = self._one(c[0], *values)
            return product[None], products[None]
        if self._many is None:
            self._many = self._columns(c, values)
        return self._many(c, *values)

    def _columns(self, c: Tensor, values: Sequence[Tensor]) -> Callable[..., Pair]:
        """All columns at once, where the first and the last get what they get alone, else one by one."""
        wanted = _each(self._one, c[[0, -1]], values)
        try:
            many = batched_trace(self._one, c[0].clone(), *values)
            if agree([x[[0, -1]] for x in many(c, *values)], wanted):
                return many
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
        return lambda c, *values: _each(self._one, c, values)

    def product(self, z: Tensor, batch: Batch, coefficients: Tensor) -> Columns:
        """The function c -> (H c, products) of one step."""
        if self._static is None:
            one = self._slow(self._losses, z, batch, coefficients)
            return lambda c: _each(one, c)
        values = self._static(z, *tensors_of(batch), coefficients)
        if self.together:
            return lambda c: self._together(c, *values)
        return lambda c: _each(self._one, c, values)

    def products(self, z: Tensor, batch: Batch, coefficients: Tensor) -> list[Columns]:
        """The same of several steps, whose z, examples and coefficients are stacked; where `together`."""
        each = self._unstacked((z, *tensors_of(batch), coefficients))
        return [lambda c, values=values: self._together(c, *values) for values in each]  # type: ignore[misc]


def _not_forward(gradient: Callable[..., object]) -> str:
    """Why forward derivatives of this gradient are not traced; "" where nothing speaks against it."""
    if not isinstance(gradient, fx.GraphModule):
        return getattr(gradient, "why", "it is not traced")
    for node in gradient.graph.nodes:
        target = node.target
        if isinstance(target, torch._ops.OpOverload) and target.overloadpacket not in FORWARD_OPERATORS:
            return f"{target.overloadpacket} is not known to have a safe forward derivative".replace(
                "aten.", ""
            )
    return ""


def _another(z: Tensor) -> Tensor:
    """Some vector like z, the same every time, without touching a generator."""
    return torch.cos(torch.arange(len(z), device=z.device, dtype=z.dtype) * 1.7 + 0.3)


def _each(one: Callable[..., Pair], c: Tensor, values: Sequence[Tensor] = ()) -> Pair:
    """`one` of a column, for every row of c [column, param]."""
    products, gradient_products = zip(*[one(row, *values) for row in c], strict=True)
    return torch.stack(products), torch.stack(gradient_products)


FAST = "forward over reverse, traced"


def how(kernels: Kernels | None) -> str:
    """How derivatives are taken, for the notes of a result."""
    if kernels is None:
        return "reverse over reverse, through the buffers or the whole batch"
    return f"reverse over reverse: {kernels.why}" if kernels.why else FAST


class Part(NamedTuple):
    """A part of a step (all of it, or a micro-batch) pulled back by itself, one column at a time.

    `slots` of the step are its examples; `pull` is c [z] -> (H c [z], products [slot]); `update` takes an
    adjoint of the buffers after the part to one of z before it, where training changes buffers.
    """

    slots: Tensor | slice
    pull: Callable[[Tensor], Pair]
    update: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def of(
        cls,
        view: Training,
        curvature: str,
        theta: Tensor,
        batch: Batch,
        coefficients: Tensor,
        slots: Tensor | slice,
    ) -> Part:
        """A part with these losses, on its batch, by reverse over reverse; `coefficients` are the step's."""
        z = view.z(theta)
        pull = REVERSE[curvature](view, z, batch, coefficients[slots])
        if len(z) == len(theta):
            return cls(slots, pull)
        start = leaf(z)
        with torch.enable_grad():
            after = view.updated(start, batch)

        def update(a: Tensor) -> Tensor:
            return torch.autograd.grad(after, start, a, retain_graph=True, materialize_grads=True)[0]

        return cls(slots, pull, update)


def composed(parts: Sequence[Part], width: int) -> Product:
    """The pull of a step of several parts, last first: buffers go from each part to the next."""

    def one(c: Tensor, a: Tensor) -> Pulled:
        total, gradient_products = torch.zeros_like(c), c.new_zeros(width)
        for part in reversed(parts):
            h, gradient_products[part.slots] = part.pull(torch.cat([c, torch.zeros_like(a)]))
            if part.update is not None:
                h = h + part.update(a)
            total, a = total + h[: len(c)], h[len(c) :]
        return total, gradient_products, a

    return lambda c, a: tuple(torch.stack(x) for x in zip(*map(one, c, a), strict=True))  # type: ignore[return-value]


class LinearStep:
    """Transposed derivative of the step: one curvature product and every example's product, per column.

    From c [column, param], the adjoint of the mean gradient, and a [column, buffer], that of the buffers
    after the step: H c, <c, g_j> for every slot j, and the adjoint of the buffers before it. What does not
    depend on c is computed for many steps at once, where the kernels can. Without
    `kernels` one part goes after the other, by reverse over reverse.
    """

    def __init__(self, step: Step, curvature: str, kernels: Kernels | None) -> None:
        if curvature not in CURVATURES:
            raise InputError(f"no curvature named {curvature!r}; choose one of {', '.join(CURVATURES)}")
        self._step, self._curvature, self.kernels = step, curvature, kernels
        self._room = max(1, _BLOCK // kernels.bytes) if kernels is not None and kernels.together else 1

    def backwards(self, states: Sequence[State]) -> Iterator[tuple[State, Product]]:
        """Consecutive states, last first, each with its function (c, a) -> (H c, products, a before)."""
        for high in range(len(states), 0, -self._room):
            some = states[max(0, high - self._room) : high]
            yield from zip(reversed(some), reversed(self._products(some)), strict=True)

    def _products(self, states: Sequence[State]) -> list[Product]:
        first, step, kernels = states[0].step, self._step, self.kernels
        if kernels is None:
            width = step.coefficients(first).shape[-1]
            return [composed(step.parts(states[0], self._curvature), width)]
        if not kernels.together:
            made = [kernels.product(states[0].theta, step.batch(first), step.coefficients(first))]
        else:
            span = slice(first, first + len(states))
            thetas = torch.stack([state.theta for state in states])
            made = kernels.products(thetas, step.batch(span), step.coefficients(span))
        return [lambda c, a, each=each: (*each(c), a) for each in made]  # type: ignore[misc]
