"""Gradients of single examples' losses, all at once, in pieces that fit in memory."""

import torch
from torch import Tensor
from torch.func import grad, vmap

from influencekit.workload import Batch, Workload, like, select, tensors_of

__all__ = ["example_gradients", "separable"]

_ROOM = 256 << 20  # bytes of gradients that are formed at once


def example_gradients(workload: Workload, theta: Tensor, batch: Batch, l2: float = 0.0) -> Tensor:
    """Gradients [example, param] of each example's own loss + (l2/2) |theta|^2 at theta [param].

    For losses that are `separable`. Cost: one gradient of each example; the result, and what a few hundred
    examples at most take on their way.
    """

    def loss(theta: Tensor, *one: Tensor) -> Tensor:
        alone = like(batch, [x[None] for x in one])
        return workload.losses(theta, alone)[0] + 0.5 * l2 * theta @ theta

    parts = tensors_of(batch)
    size = max(1, min(256, _ROOM // theta.nbytes))
    each = vmap(grad(loss), in_dims=(None, *[0] * len(parts)), chunk_size=size)
    return each(theta, *parts)


def separable(workload: Workload, batch: Batch) -> bool:
    """Whether the loss of an example is its own: the first one's is the same whoever stands beside."""
    theta = workload.theta0
    twice = select(batch, torch.zeros(2, dtype=torch.int64, device=theta.device))
    with torch.no_grad():
        together, alone = (workload.losses(theta, some)[:1] for some in (batch, twice))
    tolerance = 1e-4 if theta.dtype != torch.float64 else 1e-9
    return torch.allclose(together, alone, rtol=tolerance, atol=tolerance)
