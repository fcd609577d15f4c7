"""One method of benchmarks/peers.py on one problem, in a process of its own.

    python benchmarks/peers_run.py "kronfluence EK-FAC" CASE.npz OUT.json

The method scores every training example for the mean test loss: removal minus full, so that a harmful
example is negative. Setting up (the trained model; for a method along the run, the run as it was
recorded) is not timed, and neither is importing; what the method does afterwards is, and again if it
takes less than 8 s. Memory is the most the process had beyond what it had when libraries and data were
loaded, set-up included.
"""

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Case", "Method", "METHODS"]

FAMILIES = ("ours", "dattri", "kronfluence", "pydvl", "captum", "traker")


class Flat(nn.Module):
    """[n, 1] -> [n]."""

    def forward(self, z: Tensor) -> Tensor:
        return z.squeeze(-1)


class AnyBatch(nn.Module):
    """Images with any leading dimensions as one batch: whole test sets stand for one example so."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 1, 28, 28)


def network(kind: str) -> nn.Module:
    """The same layers in the same order as influencekit's workloads have them."""
    if kind == "lr":
        layers = [nn.Flatten(), nn.Linear(784, 1)]
    elif kind == "dnn":
        layers = [nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)]
    else:
        first = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)]
        layers = [*first, *second, nn.Flatten(), nn.Linear(1600, 1)]
    return nn.Sequential(AnyBatch(), *layers, Flat())


@dataclass
class Case:
    """A trained model and all that is known of its training; `damping` = 1 / (sum of learning rates)."""

    kind: str
    seed: int
    l2: float
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    order: Tensor
    lr: list[float]
    epoch: list[int]
    ends: list[int]
    states: Tensor
    folder: Path
    damping: float = field(init=False)

    def __post_init__(self) -> None:
        self.damping = 1 / sum(self.lr)

    @classmethod
    def read(cls, path: str, folder: str) -> "Case":
        with np.load(path) as a:
            parts = [torch.from_numpy(a[k]) for k in ("x_train", "y_train", "x_test", "y_test", "order")]
            lists = [a[k].tolist() for k in ("lr", "epoch", "ends")]
            known = str(a["kind"]), int(a["seed"]), float(a["l2"])
            return cls(*known, *parts, *lists, torch.from_numpy(a["states"]), Path(folder))

    def model(self, state: int = -1) -> nn.Module:
        """The network with the parameters of a state, the last one by default."""
        model = network(self.kind)
        torch.nn.utils.vector_to_parameters(self.states[state].clone(), model.parameters())
        return model

    @property
    def n(self) -> int:
        return len(self.x)

    def train(self) -> torch.utils.data.TensorDataset:
        return torch.utils.data.TensorDataset(self.x, self.y)

    def test(self, as_one: bool = False) -> torch.utils.data.TensorDataset:
        """The test set, or all of it as the only example of one."""
        x, y = (self.test_x[None], self.test_y[None]) if as_one else (self.test_x, self.test_y)
        return torch.utils.data.TensorDataset(x, y)


@dataclass(frozen=True)
class Method:
    """`imports` are loaded before the clock starts; `score` gets what `set_up` gives."""

    name: str
    imports: tuple[str, ...]
    set_up: Callable[[Case], Any]
    score: Callable[[Any], Tensor]
    settings: str
    trajectory: bool = False
    once: bool = False  # on one seed only: a default that everybody is told to change


def methods() -> dict[str, Method]:
    """All of them, by name; a library is imported only when one of its methods is used."""
    found = [m for name in FAMILIES for m in import_module(f"peers_{name}").METHODS]
    return {m.name: m for m in found}


METHODS = methods


def memory(what: str) -> float:
    """VmRSS or VmHWM of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def main() -> None:
    name, path, out = sys.argv[1:]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    method = methods()[name]
    torch.manual_seed(0)
    began = time.process_time()
    for module in method.imports:
        import_module(module)
    report: dict[str, Any] = {"import_seconds": time.process_time() - began}
    with tempfile.TemporaryDirectory() as folder:
        case = Case.read(path, folder)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = memory("VmRSS")
        began = time.process_time()
        ready = method.set_up(case)
        report["set_up_seconds"] = time.process_time() - began
        took = []
        while len(took) < 2 and sum(took) < 8:
            began, wall = time.process_time(), time.perf_counter()
            scores = method.score(ready).detach().double().flatten()
            took.append(time.process_time() - began)
            report.setdefault("wall_seconds", time.perf_counter() - wall)
    report |= {"seconds": took[0], "seconds_again": took[-1] if len(took) > 1 else None}
    report |= {"memory_mb": memory("VmHWM") - before, "scores": scores.tolist()}
    if len(scores) != case.n:
        raise ValueError(f"{len(scores)} scores of {case.n} examples")
    Path(out).write_text(json.dumps(report))


if __name__ == "__main__":
    sys.modules["peers_run"] = sys.modules["__main__"]  # the families import from it
    main()
