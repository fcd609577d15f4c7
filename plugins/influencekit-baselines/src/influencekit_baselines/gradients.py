"""Products of per-example gradients with vectors, and their norms, at one state of a run.

The gradient g_j of an example is that of its own loss with its L2 penalty, as everywhere in influencekit.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import vmap

from influencekit import Workload
from influencekit.curvature import none
from influencekit.gradients import example_gradients
from influencekit.tracing import with_batching

__all__ = ["along", "chunks", "squared_norms"]

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


def squared_norms(workload: Workload, theta: Tensor) -> Tensor:
    """|g_j|^2 [train]."""
    norms = []
    for rows in chunks(workload, theta):
        g = example_gradients(workload, theta, workload.examples(rows), workload.l2)
        norms.append(g.detach().square().sum(1))
    return torch.cat(norms)
