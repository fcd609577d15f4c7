"""A cell: the smallest piece of a reproduction, done once and kept in a file of its own."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influencekit.errors import InfluenceKitError, StoreError
from influencekit.reproduce.experiments import EXPERIMENTS, problem_of

__all__ = ["Cell", "Kept", "load", "made_with", "run", "save"]


@dataclass(frozen=True)
class Cell:
    """One experiment on one seed of a workload (a spec), with the experiment's own options.

    `again` trains on the seed's examples once more, see `experiments.problem_of`.
    """

    experiment: str
    workload: str
    seed: int
    options: tuple[tuple[str, Any], ...] = ()
    again: str = ""

    def __str__(self) -> str:
        words = [self.experiment, self.workload, f"seed {self.seed}", *(f"{k} {v}" for k, v in self.options)]
        return ", ".join([*words, f"again with other {self.again}"] if self.again else words)

    @property
    def row(self) -> "Cell":
        """The same cell of seed 0: what all seeds of one row of a table have in common."""
        return Cell(self.experiment, self.workload, 0, self.options, self.again)

    @property
    def file(self) -> str:
        """Its file below the folder of the reproduction; different cells have different ones."""
        words = [self.workload.replace(":", "-").replace("=", "_")]
        words += [*(f"{k}_{v}" for k, v in self.options), *([f"again_{self.again}"] if self.again else [])]
        return f"cells/{self.experiment}/{'-'.join(words)}-seed_{self.seed}.json"


@dataclass(frozen=True)
class Kept:
    """What a cell gave, the seconds that took, and the machine in words."""

    found: dict[str, Any]
    seconds: float
    machine: str


def made_with(cell: Cell, device: str) -> dict[str, Any]:
    """Whatever a cell's numbers depend on: a file that says something else is done again."""
    import torch

    from influencekit import __version__

    return {
        "influencekit": __version__,
        "torch": torch.__version__,
        "device": device,
        "revision": EXPERIMENTS[cell.experiment].revision,
        "experiment": cell.experiment,
        "workload": cell.workload,
        "seed": cell.seed,
        "again": cell.again,
        "options": dict(cell.options),
    }


def run(cell: Cell, device: str) -> Kept:
    """Do the cell. Errors: those of the experiment, with the cell's name before them."""
    began = time.perf_counter()
    try:
        problem = problem_of(cell.workload, cell.seed, device, cell.again)
        found = EXPERIMENTS[cell.experiment].run(problem, cell.seed, **dict(cell.options))
    except InfluenceKitError as error:
        raise type(error)(f"{cell}: {error}") from error
    return Kept(found, time.perf_counter() - began, machine(device))


def machine(device: str) -> str:
    """This machine in words."""
    import platform

    import torch

    if device != "cpu":
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()}-core {platform.machine()} CPU"


def save(folder: Path, cell: Cell, device: str, kept: Kept) -> None:
    """Write the cell's file in one act: it is there as a whole, or not at all."""
    path = folder / cell.file
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    content = {
        "made_with": made_with(cell, device), "seconds": round(kept.seconds, 2), "machine": kept.machine,
        "found": kept.found,
    }  # fmt: skip
    partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
    os.replace(partial, path)


def load(folder: Path, cell: Cell, device: str) -> Kept | None:
    """What was kept of a cell; None where there is nothing, or something made with other options or versions.

    Errors: a file that cannot be read.
    """
    path = folder / cell.file
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["made_with"] != made_with(cell, device):
            return None
        kept = Kept(dict(content["found"]), float(content["seconds"]), str(content["machine"]))
        if not isinstance(kept.found.get("accuracy"), float):
            raise ValueError("no accuracy")
        return kept
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise StoreError(f"{path} cannot be read: {reason}; delete it, and the cell is done again") from error
