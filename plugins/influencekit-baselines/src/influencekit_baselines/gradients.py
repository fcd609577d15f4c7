"""Products of per-example gradients with vectors, and their norms, at one state of a run.

The gradient g_j of an example is that of its own loss with its L2 penalty, as everywhere in influencekit.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import grad, vmap

from influencekit import Workload
from influencekit.curvature import none
from influencekit.tracing import with_batching
from influencekit.workload import like, tensors_of

__all__ = ["along", "chunks", "per_example_gradients", "squared_norms"]

_MEMORY = 256 << 20  # bytes of per-example gradients that are formed at once
_ROWS = 1024  # examples of one forward derivative


def along(workload: Workload, theta: Tensor, vectors: Tensor) -> Tensor:
    """<v, g_j> [query, train] for vectors [query, param]: forward derivatives, no gradient is formed."""
    parts = []
    with torch.no_grad():
        for rows in torch.arange(workload.n_train, device=theta.device).split(_ROWS):
            batch, ones = workload.examples(rows), theta.new_ones(len(rows))

            def shares(v: Tensor, batch=batch, ones=ones) -> Tensor:  # type: ignore[no-untyped-def]
                return none(workload, theta, batch, ones, v)[1]

            if len(vectors) == 1:
                parts.append(shares(vectors[0])[None])
            else:
                parts.append(with_batching(lambda f: vmap(f, chunk_size=64), shares, vectors))
    return torch.cat(parts, 1)


def chunks(workload: Workload, theta: Tensor) -> Iterator[Tensor]:
    """Positions of the training examples, in pieces whose gradients fit in memory together."""
    size = max(1, min(_ROWS, _MEMORY // theta.nbytes))
    yield from torch.arange(workload.n_train, device=theta.device).split(size)


def per_example_gradients(workload: Workload, theta: Tensor, rows: Tensor) -> Tensor:
    """g_j [row, param] of the training examples at `rows`, batched."""
    batch = workload.examples(rows)

    def loss(theta: Tensor, *one: Tensor) -> Tensor:
        alone = like(batch, [x[None] for x in one])
        return workload.losses(theta, alone)[0] + 0.5 * workload.l2 * theta @ theta

    examples = tensors_of(batch)
    return vmap(lambda *one: grad(loss)(theta, *one))(*examples).detach()


def squared_norms(workload: Workload, theta: Tensor) -> Tensor:
    """|g_j|^2 [train]."""
    pieces = chunks(workload, theta)
    return torch.cat([per_example_gradients(workload, theta, rows).square().sum(1) for rows in pieces])
