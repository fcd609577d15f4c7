"""One method on one problem, in a process of its own.

The method scores every training example for the mean test loss: removal minus full, so that a harmful
example is negative. Setting up (the trained model; for a method along the run, the run as it was
recorded) is not timed, and neither is importing; what the method does afterwards is, and again if it
takes less than 8 s. Memory is the most the process had beyond what it had when libraries and data were
loaded, set-up included.
"""

import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.case import Case
from benchmarks.shared.processes import count_the_peak_from_here, memory

FAMILIES = ("ours", "dattri", "kronfluence", "pydvl", "captum", "traker")


@dataclass(frozen=True)
class Method:
    """`imports` are loaded before the clock starts; `score` gets what `set_up` gives."""

    name: str
    imports: tuple[str, ...]
    score: Callable[[Any], Tensor]
    settings: str
    set_up: Callable[[Case], Any] = lambda case: case
    trajectory: bool = False
    once: bool = False  # on one seed only: a default that everybody is told to change


def methods() -> dict[str, Method]:
    """All of them, by name; a library is imported only when one of its methods is used."""
    found = [m for name in FAMILIES for m in import_module(f"benchmarks.peers.{name}").METHODS]
    return {m.name: m for m in found}


def scored(name: str, case: str) -> dict[str, Any]:
    """Scores, seconds and memory of a method on the problem in a file."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    method = methods()[name]
    torch.manual_seed(0)
    began = time.process_time()
    for module in method.imports:
        import_module(module)
    report: dict[str, Any] = {"import_seconds": time.process_time() - began}
    with tempfile.TemporaryDirectory() as folder:
        problem = Case.read(case, folder)
        before = count_the_peak_from_here()
        began = time.process_time()
        ready = method.set_up(problem)
        report["set_up_seconds"] = time.process_time() - began
        took = []
        while len(took) < 2 and sum(took) < 8:
            began, wall = time.process_time(), time.perf_counter()
            scores = method.score(ready).detach().double().flatten()
            took.append(time.process_time() - began)
            report.setdefault("wall_seconds", time.perf_counter() - wall)
    report |= {"seconds": took[0], "seconds_again": took[-1] if len(took) > 1 else None}
    report |= {"memory_mb": memory("VmHWM") - before, "scores": scores.tolist()}
    if len(scores) != problem.n:
        raise ValueError(f"{len(scores)} scores of {problem.n} examples")
    return report
