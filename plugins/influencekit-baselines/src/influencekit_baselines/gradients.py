"""Products of per-example gradients with vectors, and their norms, at one state of a run.

The gradient g_j of an example is that of its own loss with its L2 penalty, as everywhere in influencekit.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from influencekit import Workload
from influencekit.extend import example_gradients, gradient_products

__all__ = ["along", "chunks", "squared_norms"]

_MEMORY = 256 << 20  # bytes of per-example gradients that are formed at once
_ROWS = 1024  # examples that are differentiated together


def along(workload: Workload, theta: Tensor, vectors: Tensor) -> Tensor:
    """<v, g_j> [query, train] for vectors [query, param]: derivatives along v, no gradient is formed."""
    pieces = torch.arange(workload.n_train, device=theta.device).split(_ROWS)
    return torch.cat([gradient_products(workload, theta, workload.examples(r), vectors) for r in pieces], 1)


def chunks(workload: Workload, theta: Tensor) -> Iterator[Tensor]:
    """Positions of the training examples, in pieces whose gradients fit in memory together."""
    size = max(1, min(_ROWS, _MEMORY // theta.nbytes))
    yield from torch.arange(workload.n_train, device=theta.device).split(size)


def squared_norms(workload: Workload, theta: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """|g_j|^2 [train]; with weights [param], each parameter's square counts so much."""
    norms = []
    for rows in chunks(workload, theta):
        g = example_gradients(workload, theta, workload.examples(rows), workload.l2)
        norms.append((g.detach().square() * weights).sum(1))
    return torch.cat(norms)
