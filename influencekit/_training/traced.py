"""What is traced of a step, once for every shape of its parts: gradients of one model and many, products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from influencekit._training.batch import Batch, first_half_twice, tensors_of
from influencekit._training.kernels.products import Products
from influencekit._training.kernels.tracing import Untraced, agree, try_trace
from influencekit._training.losses import by_transform
from influencekit._training.parts import Kernel, Part, by_autograd

__all__ = ["Traced"]

_SHAPES = 8  # so many shapes of parts are traced, more are run as they are


class Traced:
    """Kernels by the shape of a part, all of which they serve: losses must not draw random numbers.

    `traceable`: whether anything is traced at all. `others`: (batch, coefficients) to check traces on.
    `factor`: how much further than rounding two ways to a gradient may be apart.
    """

    def __init__(
        self, traceable: bool, others: Callable[[], Sequence[tuple[Batch, Tensor]]], factor: float = 1.0
    ) -> None:
        self._traceable, self._others, self._factor = traceable, others, factor
        self._shapes: set[Any] = set()
        self.gradients: dict[Any, Any] = {}
        self.products: dict[Any, Products] = {}

    def one(self, part: Part, theta: Tensor, coefficients: Tensor) -> Kernel:
        """The gradient of a part, traced where that can be done."""
        key = (theta.shape, part.losses.autocast, part.shape)
        if key in self.gradients:
            return self.gradients[key]
        slow = by_autograd(part, theta, coefficients)
        if not self._serves(part):
            return Untraced(slow, "the model is large or random")
        checks = [
            *((theta * 1.01, *tensors_of(batch), weights) for batch, weights in self._others()),
            (theta, *tensors_of(first_half_twice(part.batch)), coefficients),
        ]
        example = (theta, *tensors_of(part.batch), coefficients)
        fast = by_transform(part.losses, part.batch)
        self.gradients[key] = try_trace(fast, *example, others=checks, slow=slow)
        return self.gradients[key]

    def many(self, part: Part, thetas: Tensor, coefficients: Tensor) -> Kernel:
        """The same of many models at once, thetas [model, param] with coefficients [model, slot]."""
        key = (thetas.shape, part.losses.autocast, part.shape)
        if key not in self.gradients:
            many = self.batched(part, thetas, coefficients)
            if isinstance(self.one(part, thetas[0], coefficients[0]), Untraced):
                return many
            traced = try_trace(many, thetas, *tensors_of(part.batch), coefficients)
            self.gradients[key] = traced if self.believed(traced, part, thetas, coefficients) else many
        return self.gradients[key]

    def batched(self, part: Part, thetas: Tensor, coefficients: Tensor) -> Kernel:
        """The same without a trace of its own: over the traced kernels of one model, more of which can be
        batched than of the model's, or over the model where it is not traced."""
        one = self.one(part, thetas[0], coefficients[0])
        if isinstance(one, Untraced):
            one = by_transform(part.losses, part.batch)
        places = (0, *[None] * len(tensors_of(part.batch)), 0)
        return vmap(one, in_dims=places, randomness="same")

    def believed(self, many: Kernel, part: Part, thetas: Tensor, coefficients: Tensor) -> bool:
        """Whether the first and the last of many models get what they get by themselves."""
        ends, rest = [0, len(thetas) - 1], tensors_of(part.batch)
        found = [x[ends] for x in many(thetas, *rest, coefficients)]
        one = self.one(part, thetas[0], coefficients[0])
        alone = [one(thetas[k], *rest, coefficients[k]) for k in ends]
        return agree(found, [torch.stack(pair) for pair in zip(*alone, strict=True)], self._factor)

    def products_of(
        self, curvature: str, part: Part, theta: Tensor, coefficients: Tensor, apart: bool, gradient: bool
    ) -> Products:
        """The curvature products of a part, and its gradient if asked for."""
        key = (curvature, gradient, part.shape)
        if key in self.products:
            return self.products[key]
        traced = self.one(part, theta, coefficients)
        others = self._others() or [(first_half_twice(part.batch), coefficients)]
        made = Products(part, curvature, traced, theta, coefficients, others, apart, gradient)
        if self._serves(part):
            self.products[key] = made
        return made

    def _serves(self, part: Part) -> bool:
        """Whether a part is one of those that are traced."""
        if self._traceable and len(self._shapes) < _SHAPES:
            self._shapes.add(part.shape)
        return part.shape in self._shapes
