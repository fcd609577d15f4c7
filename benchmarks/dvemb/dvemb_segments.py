"""Is the recursion of the embeddings faster in segments between checkpoints than step by step?

Gradients of one run, projected and held in memory, so that the recursion alone is timed; embeddings are
carried to the end of the run in both. The difference is relative to the largest embedding.
"""

from collections.abc import Callable
from functools import partial

import torch
from influencekit_dvemb.recursion import Later, cuts, segments
from influencekit_dvemb.sources import Replayed, Source
from torch import Tensor

import influencekit as ik
from benchmarks.shared.timing import side_by_side

TAKES = "3 min"
RUNS = ((1024, {"n_train": 2048, "epochs": 5}), (None, {"n_train": 512, "epochs": 4}))
QUICK = {"runs": ((256, {"n_train": 64, "epochs": 1}),)}
ROUNDS = 3


class InMemory(Source):
    """The gradients of another source, all in memory."""

    def __init__(self, other: Source) -> None:
        self.projection, self.coefficient, self.lr = other.projection, other.coefficient, other.lr
        self._all = other.gradients(0, other.steps)

    def gradients(self, start: int, stop: int) -> Tensor:
        return self._all[start:stop]


def by_steps(source: Source) -> Tensor:
    """e = lr w (g - M g), M += sum e g^T, from the last step back: [occurrence, feature]."""
    sizes, found = source.projection.sizes, []
    M = [source.lr.new_zeros(n, n) for n in sizes]  # its transpose, which acts on rows
    for t in reversed(range(source.steps)):
        g = source.gradients(t, t + 1)[0]
        c = source.lr[t] * source.coefficient[t][:, None]
        e = []
        for part, m in zip(g.split(sizes, -1), M, strict=True):
            e.append(c * (part - part @ m))
            m.addmm_(part.T, e[-1])
        found.append(torch.cat(e, -1))
    return torch.cat(found[::-1])


def by_segments(source: Source, checkpoints: int | None) -> Tensor:
    """The same, a segment after the other, several computed together."""
    later = [Later() for _ in source.projection.sizes]
    found = []
    for segment in segments(source, cuts(0, source.steps, source.width, checkpoints)):
        carried = []
        for way, E, G in zip(later, segment.embeddings, segment.gradients, strict=True):
            carried.append(way.carried(E))
            way.extend(carried[-1], G)
        found.append(torch.cat(carried, -1))
    return torch.cat(found[::-1])


def measure(dim: int | None, options: dict) -> dict:
    """Seconds and differences of every way, for one run."""
    run = ik.record(ik.make("workload", "mnist-1v7-dnn", setting="trained", batch_size=32, **options))
    source = InMemory(Replayed(run, dim, 0))
    default = len(cuts(0, source.steps, source.width, None))
    ways: dict[str, Callable[[], Tensor]] = {"step by step": partial(by_steps, source)}
    for k in sorted({1, 8, default}):
        label = f"{k} segment{'s' * (k > 1)}{' (default)' * (k == default)}"
        ways[label] = partial(by_segments, source, k)
    expected = by_steps(source)
    differences = {
        name: float((way() - expected).abs().max() / expected.abs().max()) for name, way in ways.items()
    }
    times = side_by_side(ways, ROUNDS)
    return {
        "occurrences": source.steps * source.width,
        "features": source.projection.features,
        "ways": {name: {"seconds": times.median(name), "difference": differences[name]} for name in ways},
    }


def answer(runs: tuple = RUNS) -> dict:
    return {"cases": [measure(dim, options) for dim, options in runs]}
