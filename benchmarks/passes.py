"""Is each pass over a traced graph worth its place? Sweeps without it against sweeps with all.

Every variant is recorded and traced anew; then all are swept in turn, and the median of the ratios is kept.
One thread. A pass without which nothing is slower has no place.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import influencekit as ik
from benchmarks.shared.results import each
from benchmarks.shared.timing import side_by_side
from influencekit._training.kernels import simplify, tracing

TAKES = "1 min"
CASES = {"lr": (21, 9), "dnn": (21, 9), "cnn": (2, 3)}  # epochs, rounds
QUICK = {"cases": ["lr"]}
PASSES: dict[str, tuple[Any, str]] = {
    "copies": (simplify, "_drop_copies"),
    "zeros": (simplify, "_drop_zeros"),
    "chains of scalings": (tracing, "_collapse_scalings"),
}
WINDOWS = {"dit": "full", "each epoch": "each-epoch"}


@contextmanager
def without(name: str) -> Iterator[None]:
    """All passes but one; `none`: all."""
    if name == "none":
        yield
        return
    module, function = PASSES[name]
    own = getattr(module, function)
    setattr(module, function, lambda *args: None)
    try:
        yield
    finally:
        setattr(module, function, own)


def measure(kind: str) -> dict[str, dict[str, float]]:
    epochs, rounds = CASES[kind]
    workload = ik.make("workload", f"mnist-1v7-{kind}", setting="trained", epochs=epochs)
    jobs = {}
    for name in ("none", *PASSES):
        with without(name):
            run = ik.record(workload)
            for what, windows in WINDOWS.items():
                jobs[f"{name} {what}"] = partial(ik.estimate, run, "test-loss", "dit", windows)
                jobs[f"{name} {what}"]()  # which traces what it needs
    times = side_by_side(jobs, rounds)
    return {n: {w: round(times.ratio(f"{n} {w}", f"none {w}"), 3) for w in WINDOWS} for n in PASSES}


def answer(cases: list[str]) -> dict:
    return {"threads": 1, "time without the pass, relative": each(cases, measure)}
