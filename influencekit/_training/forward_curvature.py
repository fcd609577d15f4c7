"""The curvatures of `curvature.REVERSE` as one function of c as well, by forward derivatives.

They are cheaper to trace, and right for the operators of `operators.FORWARD` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from influencekit._training.batch import Batch
from influencekit._training.curvature import Losses

__all__ = ["FORWARD", "Triple"]

jvp: Any = torch.func.jvp  # typed as if has_aux were always given
vjp: Any = torch.func.vjp

Triple = tuple[Tensor, Tensor, Tensor]  # (H c, <c, g_j> [slot], the gradient of the mean loss)


def _hessian(w: Losses, z: Tensor, batch: Batch, coefficients: Tensor, c: Tensor) -> Triple:
    def mean_loss(z: Tensor) -> tuple[Tensor, Tensor]:
        losses = w.losses(z, batch)
        return (coefficients * losses).sum(), losses

    (g, _), (product, gradient_products) = jvp(grad(mean_loss, has_aux=True), (z,), (c,))
    return _penalised(w, z, coefficients, c, (product, gradient_products, g))


def _gauss_newton(w: Losses, z: Tensor, batch: Batch, coefficients: Tensor, c: Tensor) -> Triple:
    def mean_loss(outputs: Any) -> tuple[Tensor, Tensor]:
        losses = w.loss_of(outputs, batch)
        return (coefficients * losses).sum(), losses

    outputs, tangent = jvp(lambda z: w.outputs(z, batch), (z,), (c,))
    (slope, _), (bent, gradient_products) = jvp(grad(mean_loss, has_aux=True), (outputs,), (tangent,))
    back = vjp(lambda z: w.outputs(z, batch), z)[1]
    return _penalised(w, z, coefficients, c, (back(bent)[0], gradient_products, back(slope)[0]))


def _fisher(w: Losses, z: Tensor, batch: Batch, coefficients: Tensor, c: Tensor) -> Triple:
    flat = w.of_theta(z)
    _, gradient_products = jvp(lambda z: w.losses(z, batch), (z,), (c,))
    _, back = vjp(lambda z: w.losses(z, batch), z)

    def pulled(weights: Tensor) -> Tensor:
        return back(weights)[0] + flat * (w.l2 * weights.sum())

    gradient_products = gradient_products + w.l2 * (flat @ c)
    return pulled(coefficients * gradient_products), gradient_products, pulled(coefficients)


def _none(w: Losses, z: Tensor, batch: Batch, coefficients: Tensor, c: Tensor) -> Triple:
    _, gradient_products, g = _fisher(w, z, batch, coefficients, c)
    return torch.zeros_like(c), gradient_products, g


def _penalised(w: Losses, z: Tensor, coefficients: Tensor, c: Tensor, found: Triple) -> Triple:
    if not w.l2:
        return found
    (product, gradient_products, g), flat, total = found, w.of_theta(z), w.l2 * coefficients.sum()
    return product + c * total, gradient_products + w.l2 * (flat @ c), g + flat * total


FORWARD: Mapping[str, Callable[[Losses, Tensor, Batch, Tensor, Tensor], Triple]] = {
    "hessian": _hessian, "gauss-newton": _gauss_newton, "fisher": _fisher, "none": _none
}  # fmt: skip
