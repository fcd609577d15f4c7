"""Gradients of many values at once: of a query's, and of single examples' losses, or their products."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from influencekit._training.batch import Batch, tensors_of, with_tensors
from influencekit._training.curvature import REVERSE, leaf
from influencekit._training.kernels.tracing import NotBatchable, agree, with_batching
from influencekit._training.losses import Training
from influencekit._training.pieces import pieces
from influencekit._training.workload import Workload

__all__ = ["by_input", "example_gradients", "gradient_of_sum", "gradient_products", "rows_of_jacobian"]

_MEMORY = 256 << 20  # bytes of gradients that are formed at once


def by_input(loss: Callable[[Tensor], Tensor], x: Tensor, graph: bool) -> Tensor:
    """The gradient of a scalar by an input; `graph`: to be differentiated once more."""
    try:
        return grad(loss)(x)
    except RuntimeError as error:
        if "setup_context" not in str(error):  # of an autograd.Function that torch.func does not take
            raise
    with torch.enable_grad():
        start = leaf(x)
        return torch.autograd.grad(loss(start), start, create_graph=graph)[0]


def rows_of_jacobian(values: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradients [value, param] of values [value] at x [param]: batched, or one backward pass each.

    The batched ones are believed where the first and the last are what `backward` gives.
    """
    with torch.enable_grad():
        start = leaf(x)
        found = values(start)

    def row(k: int, last: bool = False) -> Tensor:
        if not found.requires_grad:
            return torch.zeros_like(x)
        one = torch.zeros_like(found).index_fill_(0, torch.tensor(k, device=x.device), 1.0)
        return torch.autograd.grad(found, start, one, retain_graph=not last, materialize_grads=True)[0]

    if len(found) == 1:
        return row(0, last=True)[None]  # the graph goes meanwhile
    ends = torch.stack([row(0), row(len(found) - 1)])
    if len(found) <= 2:
        return ends[: len(found)]
    try:
        rows = with_batching(jacrev, values, x.detach())
    except NotBatchable:
        rows = None
    if rows is not None and agree(rows[[0, -1]].detach(), ends):
        return rows
    return torch.stack([row(k) for k in range(len(found))])


def gradient_of_sum(workload: Workload, theta: Tensor, parts: Sequence[Batch]) -> Tensor:
    """The gradient [1, param] of the sum of the losses of some batches, in evaluation mode; one at a time."""

    def summed(part: Batch, theta: Tensor) -> Tensor:
        return workload.losses(theta, part).sum(0, keepdim=True)

    total = torch.zeros_like(theta)[None]
    for part in parts:
        total += rows_of_jacobian(partial(summed, part), theta)
    return total


def example_gradients(workload: Workload, theta: Tensor, batch: Batch, l2: float = 0.0) -> Tensor:
    """Gradients [example, param] of each example's own loss + (l2/2) |theta|^2 at theta [param].

    In evaluation mode, and only where an example's loss depends on no other of its batch. Cost: one gradient
    of each example; memory for the result, and for what a few hundred examples at most take on their way.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.extend import example_gradients
        >>> work = ik.make("workload", "mnist-1v7-lr:n_train=24")
        >>> example_gradients(work, work.theta0, work.train, work.l2).shape == (24, work.n_params)
        True
    """

    def loss(theta: Tensor, *one: Tensor) -> Tensor:
        alone = with_tensors(batch, [x[None] for x in one])
        return workload.losses(theta, alone)[0] + 0.5 * l2 * theta @ theta

    parts = tensors_of(batch)

    def by_backward(k: int) -> Tensor:
        with torch.enable_grad():
            start = leaf(theta)
            return torch.autograd.grad(loss(start, *(x[k] for x in parts)), start, materialize_grads=True)[0]

    size = max(1, min(256, _MEMORY // theta.nbytes, len(tensors_of(pieces(workload, batch)[0])[0])))
    each = vmap(grad(loss), in_dims=(None, *[0] * len(parts)), chunk_size=size)
    try:
        rows = each(theta.detach(), *parts)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        rows = None  # recurrent layers, masks, ...: no rule for batching
    if rows is not None and agree(rows[[0, -1]], torch.stack([by_backward(0), by_backward(-1)])):
        return rows
    return torch.stack([by_backward(k) for k in range(len(parts[0]))])


def gradient_products(workload: Workload, theta: Tensor, batch: Batch, vectors: Tensor) -> Tensor:
    """<v, g_j> [row, example] for vectors [row, param] and every example of a batch, at theta [param].

    g_j is the gradient of an example's own loss with its L2 penalty, in evaluation mode; none is formed.
    Cost: two backward passes of the batch for all rows, and one more a row.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.extend import gradient_products
        >>> work = ik.make("workload", "mnist-1v7-lr:n_train=24")
        >>> gradient_products(work, work.theta0, work.train, work.theta0[None]).shape
        torch.Size([1, 24])
    """
    ones = theta.new_ones(len(tensors_of(batch)[0]))
    product = REVERSE["none"](Training.evaluated(workload), theta, batch, ones)
    return torch.stack([product(v)[1] for v in vectors])
