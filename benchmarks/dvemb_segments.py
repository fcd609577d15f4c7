"""The recursion of the embeddings: step by step as it is written, and in segments between checkpoints.

    python benchmarks/dvemb_segments.py            # writes results/dvemb_segments.json

Gradients of one run, projected and held in memory, so that the recursion alone is timed; embeddings are
carried to the end of the run in both. The difference is relative to the largest embedding.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from influencekit_dvemb.recursion import Later, cuts, segments
from influencekit_dvemb.sources import Replayed, Source
from machine import machine
from torch import Tensor

import influencekit as ik

RESULTS = Path(__file__).parent / "results"
ROUNDS = 3
CASES = ((1024, {"n_train": 2048, "epochs": 5}), (None, {"n_train": 512, "epochs": 4}))


class TrainableState(Source):
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


def case(dim: int | None, options: dict) -> dict:
    """Seconds and differences of every way, for one run."""
    run = ik.record(ik.make("workload", "mnist-1v7-dnn", setting="trained", batch_size=32, **options))
    source = TrainableState(Replayed(run, dim, 0))
    default = len(cuts(0, source.steps, source.width, None))
    ways: dict[str, Callable[[], Tensor]] = {"step by step": lambda: by_steps(source)}
    for k in sorted({1, 8, default}):
        label = f"{k} segment{'s' * (k > 1)}{' (default)' * (k == default)}"
        ways[label] = lambda k=k: by_segments(source, k)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    differences = {}
    expected = by_steps(source)
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began = time.perf_counter()
            found = way()
            spent[name].append(time.perf_counter() - began)
            differences[name] = float((found - expected).abs().max() / expected.abs().max())
    return {
        "occurrences": source.steps * source.width,
        "features": source.projection.features,
        "ways": {
            name: {"seconds": statistics.median(each), "difference": differences[name]}
            for name, each in spent.items()
        },
    }


def main() -> None:
    torch.set_num_threads(1)
    report = {
        "command": "python benchmarks/dvemb_segments.py " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "cases": [case(dim, options) for dim, options in CASES],
    }
    print(json.dumps(report, indent=1))
    (RESULTS / "dvemb_segments.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
