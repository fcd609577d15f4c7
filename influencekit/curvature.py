"""Curvature of a batch's mean loss, as products with a vector; one pass also gives every example's share.

Each function takes (workload, theta [param], batch, coefficients [slot], c [param]), the coefficients being
the weights w_i / b of the examples' losses, and returns (H c [param], <c, g_j> [slot]). The L2 penalty is
part of every example's loss.
"""

from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from influencekit.workload import Batch, Workload

__all__ = ["CURVATURES", "Pair", "fisher", "gauss_newton", "hessian"]

jvp: Any = torch.func.jvp  # typed as if has_aux were always given
vjp: Any = torch.func.vjp

Pair = tuple[Tensor, Tensor]


def hessian(w: Workload, theta: Tensor, batch: Batch, coefficients: Tensor, c: Tensor) -> Pair:
    """True Hessian of the batch's mean loss, by one forward derivative of the gradient."""

    def mean_loss(theta: Tensor) -> tuple[Tensor, Tensor]:
        losses = w.losses(theta, batch)
        return (coefficients * losses).sum(), losses

    _, (product, shares) = jvp(grad(mean_loss, has_aux=True), (theta,), (c,))
    return _penalised(w, theta, coefficients, c, product, shares)


def gauss_newton(w: Workload, theta: Tensor, batch: Batch, coefficients: Tensor, c: Tensor) -> Pair:
    """J^T (d2 loss / d outputs2) J: the model linearised, the loss's curvature kept."""

    def mean_loss(outputs: Any) -> tuple[Tensor, Tensor]:
        losses = w.loss_of(outputs, batch)
        return (coefficients * losses).sum(), losses

    outputs, tangent = jvp(lambda theta: w.outputs(theta, batch), (theta,), (c,))
    _, (bent, shares) = jvp(grad(mean_loss, has_aux=True), (outputs,), (tangent,))
    _, back = vjp(lambda theta: w.outputs(theta, batch), theta)
    return _penalised(w, theta, coefficients, c, back(bent)[0], shares)


def fisher(w: Workload, theta: Tensor, batch: Batch, coefficients: Tensor, c: Tensor) -> Pair:
    """Empirical Fisher (1/b) sum_i g_i g_i^T, the outer products of the paper's Eq. 12."""
    _, shares = jvp(lambda theta: w.losses(theta, batch), (theta,), (c,))
    shares = shares + w.l2 * (theta @ c)
    _, back = vjp(lambda theta: w.losses(theta, batch), theta)
    return back(coefficients * shares)[0] + theta * (w.l2 * (coefficients * shares).sum()), shares


CURVATURES = {"hessian": hessian, "gauss-newton": gauss_newton, "fisher": fisher}


def _penalised(
    w: Workload, theta: Tensor, coefficients: Tensor, c: Tensor, product: Tensor, shares: Tensor
) -> Pair:
    if not w.l2:
        return product, shares
    return product + c * (w.l2 * coefficients.sum()), shares + w.l2 * (theta @ c)
