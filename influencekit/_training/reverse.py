"""A step pulled back by reverse over reverse, one part after the other, through the buffers between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from influencekit._training.curvature import REVERSE, Product, leaf
from influencekit._training.parts import Part

__all__ = ["Reversed", "pulled_back"]


class Reversed(NamedTuple):
    """A part that can be pulled back, one column at a time.

    `product` takes c [z] to H c [z] and the products [slot] of its examples; `update` an adjoint of the
    buffers after the part to one of z before it, where training changes buffers.
    """

    slots: Tensor | slice
    product: Product
    update: Callable[[Tensor], Tensor] | None

    @classmethod
    def of(cls, part: Part, curvature: str, theta: Tensor, coefficients: Tensor) -> Reversed:
        """A part at theta [param], with the coefficients [slot] of its examples."""
        z = part.losses.z(theta)
        product = REVERSE[curvature](part.losses, z, part.batch, coefficients)
        if len(z) == len(theta):
            return cls(part.slots, product, None)
        start = leaf(z)
        with torch.enable_grad():
            after = part.losses.updated(start, part.batch)

        def update(a: Tensor) -> Tensor:
            return torch.autograd.grad(after, start, a, retain_graph=True, materialize_grads=True)[0]

        return cls(part.slots, product, update)

    def __call__(self, c: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """From adjoints c [param] of the mean gradient and a [buffer] of the buffers after the part: the
        adjoint of z before it, and the products [slot]."""
        h, gradient_products = self.product(torch.cat([c, torch.zeros_like(a)]))
        return (h if self.update is None else h + self.update(a)), gradient_products


def pulled_back(parts: Iterable[Reversed], c: Tensor, a: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """(H c, products [slot] of the whole step, adjoint of the buffers before it): the last part first."""
    total, gradient_products = torch.zeros_like(c), c.new_zeros(width)
    for part in reversed(list(parts)):
        h, gradient_products[part.slots] = part(c, a)
        total, a = total + h[: len(c)], h[len(c) :]
    return total, gradient_products, a
