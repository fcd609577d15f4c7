"""The recursion of data value embeddings, in segments between checkpoints, many segments at once.

For plain SGD, layer by layer, with H_t = sum_i w_i g_i g_i^T over the batch of step t (w_i = 1/b):

    e_i = lr_t [prod_{k > t} (I - lr_k H_k)] w_i g_i = lr_t w_i (I - M) g_i,    M += sum_i e_i g_i^T

backwards from M = 0. Within a segment M is the sum over what came later, so all its embeddings solve one
triangular system, (I + U) E = C G with C = diag(lr w) and U = C G G^T where the column is of a later step:
matrix products only, and segments are a batch of such systems. A segment as a whole transfers by I - M with
M = E^T G: an adjoint goes back through it as a - G^T (E a), an earlier embedding e forward as e - E^T (G e).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from influencekit_dvemb.sources import Source

__all__ = ["Later", "Segment", "cuts", "segments"]

_OCCURRENCES = 128  # of a segment, unless told: more cost more in U, fewer more in calls (measured)
_MEMORY = 1 << 30  # bytes of gradients, embeddings and U of the segments that are computed together


class Segment(NamedTuple):
    """Steps, and for each layer the gradients G and embeddings E [occurrence, feature] at the segment's end.

    Occurrences are steps times slots, in their order.
    """

    steps: slice
    gradients: tuple[Tensor, ...]
    embeddings: tuple[Tensor, ...]


class Later:
    """The transfer I - M, M = E^T G, of all segments passed so far, for one layer.

    Kept as E and G while that is less than M itself, [feature, feature].
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._dense: Tensor | None = None

    def carried(self, embeddings: Tensor) -> Tensor:
        """(I - M) e for every row e of [occurrence, feature]: from this segment's end to the very end."""
        if self._dense is not None:
            return embeddings - embeddings @ self._dense
        if not self._pairs:
            return embeddings
        return embeddings - sum((embeddings @ G.T) @ E for E, G in self._pairs)

    def matrix(self) -> Tensor:
        """M [feature, feature]."""
        if self._dense is not None:
            return self._dense.T
        E, G = (torch.cat(x) for x in zip(*self._pairs, strict=True))
        return E.T @ G

    def extend(self, carried: Tensor, gradients: Tensor) -> None:
        """Pass a segment, whose embeddings have been carried to the end."""
        rows, features = carried.shape
        if self._dense is None:
            self._pairs.append((carried, gradients))
            if sum(len(E) for E, _ in self._pairs) < features:
                return
            self._dense, self._pairs = self.matrix().T.contiguous(), []  # M^T, which acts on rows
        else:
            self._dense.addmm_(gradients.T, carried)


def cuts(
    start: int, stop: int, width: int, count: int | None, also: Sequence[int] = ()
) -> list[tuple[int, int]]:
    """Segments of the steps start ... stop - 1: `count` of them, and cut at the states `also`."""
    count = count or -(-(stop - start) * width // _OCCURRENCES)
    count = max(1, min(count, stop - start))
    even = {start + round(k * (stop - start) / count) for k in range(count + 1)}
    borders = sorted(even | {t for t in also if start < t < stop})
    return list(zip(borders, borders[1:], strict=False))


def segments(source: Source, spans: Sequence[tuple[int, int]]) -> Iterator[Segment]:
    """The segments of these spans of steps, the last first, as many computed together as memory allows."""
    each = max(high - low for low, high in spans) * source.width
    bytes_each = source.coefficient.element_size() * each * (4 * source.projection.features + 2 * each)
    together = max(1, _MEMORY // bytes_each)
    for last in range(len(spans), 0, -together):
        yield from reversed(_together(source, spans[max(0, last - together) : last]))


def _together(source: Source, spans: Sequence[tuple[int, int]]) -> list[Segment]:
    """Adjoining segments, padded at their ends to one length with occurrences of weight 0."""
    width, features = source.width, source.projection.features
    long = max(high - low for low, high in spans)
    first = spans[0][0]
    found = source.gradients(first, spans[-1][1])
    G = found.new_zeros(len(spans), long, width, features)
    c = found.new_zeros(len(spans), long, width)
    for k, (low, high) in enumerate(spans):
        G[k, : high - low] = found[low - first : high - first]
        c[k, : high - low] = source.lr[low:high, None] * source.coefficient[low:high]
    del found
    G, c = G.flatten(1, 2), c.flatten(1)
    step = torch.arange(long, device=G.device).repeat_interleave(width)
    later = step[:, None] < step  # [occurrence, one that comes later]
    layers = [(part, embedded(part, c, later)) for part in G.split(source.projection.sizes, -1)]
    made = []
    for k, (low, high) in enumerate(spans):
        n = (high - low) * width
        made.append(
            Segment(slice(low, high), tuple(g[k, :n] for g, _ in layers), tuple(e[k, :n] for _, e in layers))
        )
    return made


def embedded(G: Tensor, c: Tensor, later: Tensor) -> Tensor:
    """E [..., occurrence, feature] of one layer: (I + U) E = C G, U = C G G^T where `later`."""
    U = torch.matmul(G, G.mT).mul_(c[..., None]).mul_(later)
    return torch.linalg.solve_triangular(U, G * c[..., None], upper=True, unitriangular=True)
