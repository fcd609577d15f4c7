"""Is each pass over a traced graph worth its place? Sweeps without it, relative to sweeps with all of them.

    python benchmarks/passes.py      # about a minute; writes results/passes.json

Every variant is recorded and traced anew; then all are swept in turn, and the median of the ratios is kept.
One thread. A pass without which nothing is slower has no place.
"""

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from machine import machine

import influencekit as ik
from influencekit.training.kernels import simplify, tracing

RESULTS = Path(__file__).parent / "results" / "passes.json"
PASSES = {
    "copies": (simplify, "_drop_copies"),
    "zeros": (simplify, "_drop_zeros"),
    "chains of scalings": (tracing, "_collapse_scalings"),
}
WINDOWS = {"dit": "full", "each epoch": "each-epoch"}


@contextmanager
def without(name: str | None) -> Iterator[None]:
    """All passes but one."""
    if name is None:
        yield
        return
    module, function = PASSES[name]
    own = getattr(module, function)
    setattr(module, function, lambda *args: None)
    try:
        yield
    finally:
        setattr(module, function, own)


def sweep(run: ik.Trajectory, windows: str) -> float:
    began = time.perf_counter()
    ik.estimate(run, "test-loss", "dit", windows)
    return time.perf_counter() - began


def measure(kind: str, epochs: int, rounds: int) -> dict[str, dict[str, float]]:
    workload = ik.make("workload", f"mnist-1v7-{kind}", setting="trained", epochs=epochs)
    runs = {}
    for name in (None, *PASSES):
        with without(name):
            runs[name] = ik.record(workload)
            for windows in WINDOWS.values():  # which traces what it needs
                sweep(runs[name], windows)
    found: dict = {name: {what: [] for what in WINDOWS} for name in PASSES}
    for _ in range(rounds):
        for what, windows in WINDOWS.items():
            times = {name: sweep(run, windows) for name, run in runs.items()}
            for name in PASSES:
                found[name][what].append(times[name] / times[None])
    return {n: {w: round(statistics.median(x), 3) for w, x in each.items()} for n, each in found.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    report = {
        "command": "python benchmarks/passes.py",
        "machine": machine(),
        "threads": 1,
        "time without the pass, relative": {
            kind: measure(kind, epochs, rounds)
            for kind, epochs, rounds in (("lr", 21, 9), ("dnn", 21, 9), ("cnn", 2, 3))
        },
    }
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))
