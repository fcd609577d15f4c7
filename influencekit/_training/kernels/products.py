"""Curvature products of a part, traced: the fast path from an adjoint of the mean gradient back to theta.

The slow path (`curvature.REVERSE`) differentiates backwards twice, one column after the other. The fast one
traces forward derivatives, where every kernel is known to have a right one, splits off what does not depend
on the adjoint, and takes all columns together. It is believed once it gives what the slow one gives on other
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, fx
from torch.func import vmap

from influencekit._training.batch import Batch, tensors_of, with_tensors
from influencekit._training.curvature import REVERSE, Pair
from influencekit._training.forward_curvature import FORWARD
from influencekit._training.kernels.batched_trace import batched_trace
from influencekit._training.kernels.operators import FORWARD as FORWARD_OPERATORS
from influencekit._training.kernels.tracing import Untraced, agree, split, try_trace
from influencekit._training.parts import Part

__all__ = ["Columns", "Products", "Pulled", "each"]

Columns = Callable[[Tensor], Pair]  # c [column, param] -> (H c, <c, g_j> [column, slot])


class Pulled(NamedTuple):
    """A part's products with any number of columns, to be asked for once, and its mean gradient, if that was
    asked for."""

    columns: Columns
    gradient: Tensor | None


class Products:
    """The products of parts of one shape; `gradient`: and their mean gradients, from the same forward pass.

    `traced` is the traced gradient of the same parts, or what stands for it: its kernels decide whether the
    fast path is tried. `others` are (batch, coefficients) that it must agree on with the slow path; `apart`
    tells that columns are not taken together. `why` says what kept the fast path from being taken, "" where
    it is.
    """

    def __init__(
        self, part: Part, curvature: str, traced: Callable[..., object], z: Tensor, coefficients: Tensor,
        others: Sequence[tuple[Batch, Tensor]], apart: bool, gradient: bool,
    ) -> None:  # fmt: skip
        self._losses, self._slow, self._gradient = part.losses, REVERSE[curvature], gradient
        self._many: Callable[..., Pair] | None = None
        self.inputs: tuple[Tensor, ...] = (z, *tensors_of(part.batch), coefficients)
        self.bytes, self.together = sum(x.nbytes for x in self.inputs), False
        self.why = _not_forward(traced) or self._trace(curvature, part.batch, others, apart)
        self.inputs = ()  # a copy of theta: only tracing needs it

    def _trace(
        self, curvature: str, batch: Batch, others: Sequence[tuple[Batch, Tensor]], apart: bool
    ) -> str:
        """Take the fast path; why not, if not."""
        product, losses, inputs, wanted = FORWARD[curvature], self._losses, self.inputs, 2 + self._gradient

        def at(z: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
            return product(losses, z, with_tensors(batch, rest[:-2]), rest[-2], rest[-1])[:wanted]

        def slow(*args: Tensor) -> tuple[Tensor, ...]:
            found = self._slow(losses, args[0], with_tensors(batch, args[1:-2]), args[-2])
            return (*found(args[-1]), found.gradient())[:wanted]

        z = inputs[0]
        c = torch.cos(torch.arange(len(z), device=z.device, dtype=z.dtype) * 1.7 + 0.3)  # some vector
        moved = z + 0.01 * c * z.std(correction=0)
        checks = [(moved, *tensors_of(other), weights, c) for other, weights in others]
        whole = try_trace(at, *inputs, c, others=checks, slow=slow)
        if not isinstance(whole, fx.GraphModule):
            assert isinstance(whole, Untraced)
            return whole.why
        static, later = split(whole, [len(inputs)])
        self._place = _take_out_last(later) if self._gradient else None
        self._static, self._one = static.forward, later.forward  # not __call__: its hooks cost more
        with torch.no_grad():
            values = self._static(*inputs)
        self.bytes = sum(x.nbytes for x in (*values, *inputs[1:-1]))
        self.together = not apart and self._batches(checks[0])
        return ""

    def _batches(self, other: Sequence[Tensor]) -> bool:
        """Whether the static part of several steps can be computed together: each gives what it gives
        alone."""
        mine, c = self.inputs, other[-1]
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
        return list(zip(*[x.unbind(0) for x in vmap(self._static)(*stacked)], strict=True))

    def of(self, inputs: Sequence[tuple[Tensor, Part, Tensor]]) -> list[Pulled]:
        """The products of several parts, each of (z, part, coefficients); at once where `together`."""
        if self.why:
            return [self._reversed(*args) for args in inputs]
        flat = [(z, *tensors_of(part.batch), coefficients) for z, part, coefficients in inputs]
        if self.together and len(flat) > 1:
            made = self._unstacked([torch.stack(column) for column in zip(*flat, strict=True)])
        else:
            made = [self._static(*args) for args in flat]
        columns = self._together if self.together else self._one_by_one
        place = self._place
        return [Pulled(partial(columns, v), None if place is None else v[place]) for v in made]

    def _reversed(self, z: Tensor, part: Part, coefficients: Tensor) -> Pulled:
        product = self._slow(part.losses, z, part.batch, coefficients)
        return Pulled(partial(_once, product.of), product.gradient() if self._gradient else None)

    def _one_by_one(self, values: Sequence[Tensor], c: Tensor) -> Pair:
        return each(self._one, c, values)

    def _together(self, values: Sequence[Tensor], c: Tensor) -> Pair:
        if len(c) == 1:
            return each(self._one, c, values)
        if self._many is None:
            self._many = self._columns(c, values)
        return self._many(c, *values)

    def _columns(self, c: Tensor, values: Sequence[Tensor]) -> Callable[..., Pair]:
        """All columns at once, where the first and the last get what they get alone, else one by one."""
        wanted = each(self._one, c[[0, -1]], values)
        try:
            many = batched_trace(self._one, c[0].clone(), *values)
            if agree([x[[0, -1]] for x in many(c, *values)], wanted):
                return many
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
        return lambda c, *values: each(self._one, c, values)


def _not_forward(gradient: Callable[..., object]) -> str:
    """Why forward derivatives of this gradient are not traced; "" where nothing speaks against it."""
    if not isinstance(gradient, fx.GraphModule):
        return getattr(gradient, "why", "it is not traced")
    for node in gradient.graph.nodes:
        target = node.target
        if isinstance(target, torch._ops.OpOverload) and target.overloadpacket not in FORWARD_OPERATORS:
            name = str(target.overloadpacket).replace("aten.", "")
            return f"{name} is not known to have a safe forward derivative"
    return ""


def _take_out_last(later: fx.GraphModule) -> int:
    """Leave out the last result of `later`, which is one of its static values; the number of that value."""
    first, *nodes = list(later.graph.nodes)
    assert first.op == "placeholder"
    *results, last = nodes[-1].args[0]
    nodes[-1].args = (tuple(results),)
    later.recompile()
    return nodes.index(last)


def each(one: Callable[..., Pair], c: Tensor, values: Sequence[Tensor] = ()) -> Pair:
    """`one` of a column, for every row of c [column, param]."""
    return _stacked([one(row, *values) for row in c])


def _once(of: Callable[..., Pair], c: Tensor) -> Pair:
    """The products with every row of c [column, param], of which the last lets go of what they are made
    of."""
    return _stacked([of(row, keep) for row, keep in zip(c, [True] * (len(c) - 1) + [False], strict=True)])


def _stacked(pairs: Sequence[Pair]) -> Pair:
    if len(pairs) == 1:  # a copy of H c less
        return pairs[0][0][None], pairs[0][1][None]
    products, gradient_products = zip(*pairs, strict=True)
    return torch.stack(products), torch.stack(gradient_products)
