"""Curvature of a batch's mean loss, as products with a vector; one pass also gives every example's share.

Each function takes (losses, theta [param], batch, coefficients [slot], c [param]), where `losses` gives the
model's outputs and per-example losses (a `Workload` does) and the coefficients are the weights w_i / b of the
examples' losses, and returns (H c [param], <c, g_j> [slot]). The L2 penalty is part of every example's loss.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import grad

from influencekit.workload import Batch

__all__ = ["CURVATURES", "Losses", "Pair", "fisher", "gauss_newton", "hessian", "none"]

jvp: Any = torch.func.jvp  # typed as if has_aux were always given
vjp: Any = torch.func.vjp

Pair = tuple[Tensor, Tensor]


class Losses(Protocol):
    """A model and its per-example losses as pure functions of theta; called twice they give the same."""

    @property
    def l2(self) -> float: ...

    def outputs(self, theta: Tensor, batch: Batch) -> Any:
        """The model's outputs."""

    def loss_of(self, outputs: Any, batch: Batch) -> Tensor:
        """Per-example losses [slot] of given outputs, without the penalty."""

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        """Per-example losses [slot] at theta, without the penalty."""


def hessian(w: Losses, theta: Tensor, batch: Batch, coefficients: Tensor, c: Tensor) -> Pair:
    """True Hessian of the batch's mean loss, by one forward derivative of the gradient."""

    def mean_loss(theta: Tensor) -> tuple[Tensor, Tensor]:
        losses = w.losses(theta, batch)
        return (coefficients * losses).sum(), losses

    _, (product, shares) = jvp(grad(mean_loss, has_aux=True), (theta,), (c,))
    return _penalised(w, theta, coefficients, c, product, shares)


def gauss_newton(w: Losses, theta: Tensor, batch: Batch, coefficients: Tensor, c: Tensor) -> Pair:
    """J^T (d2 loss / d outputs2) J: the model linearised, the loss's curvature kept."""

    def mean_loss(outputs: Any) -> tuple[Tensor, Tensor]:
        losses = w.loss_of(outputs, batch)
        return (coefficients * losses).sum(), losses

    outputs, tangent = jvp(lambda theta: w.outputs(theta, batch), (theta,), (c,))
    _, (bent, shares) = jvp(grad(mean_loss, has_aux=True), (outputs,), (tangent,))
    _, back = vjp(lambda theta: w.outputs(theta, batch), theta)
    return _penalised(w, theta, coefficients, c, back(bent)[0], shares)


def fisher(w: Losses, theta: Tensor, batch: Batch, coefficients: Tensor, c: Tensor) -> Pair:
    """Empirical Fisher (1/b) sum_i g_i g_i^T, the outer products of the paper's Eq. 12."""
    _, shares = jvp(lambda theta: w.losses(theta, batch), (theta,), (c,))
    shares = shares + w.l2 * (theta @ c)
    _, back = vjp(lambda theta: w.losses(theta, batch), theta)
    return back(coefficients * shares)[0] + theta * (w.l2 * (coefficients * shares).sum()), shares


def none(w: Losses, theta: Tensor, batch: Batch, coefficients: Tensor, c: Tensor) -> Pair:
    """No curvature: the shares alone, for methods that take every step by itself."""
    _, shares = jvp(lambda theta: w.losses(theta, batch), (theta,), (c,))
    return torch.zeros_like(c), shares + w.l2 * (theta @ c)


CURVATURES = {"hessian": hessian, "gauss-newton": gauss_newton, "fisher": fisher, "none": none}


def _penalised(
    w: Losses, theta: Tensor, coefficients: Tensor, c: Tensor, product: Tensor, shares: Tensor
) -> Pair:
    if not w.l2:
        return product, shares
    return product + c * (w.l2 * coefficients.sum()), shares + w.l2 * (theta @ c)
