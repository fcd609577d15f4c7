"""A cell: the smallest piece of a reproduction, done once and saved in a file of its own."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import influencekit as ik
from influencekit.errors import InfluenceKitError, StoreError
from influencekit.extend import read_sealed, sealed, whole
from influencekit_paper.reproduce.experiments import EXPERIMENTS, problem_of
from influencekit_paper.reproduce.forms import misfit

__all__ = ["SCHEMA", "Cell", "Result", "load", "made_with", "replace_file", "run", "save"]

SCHEMA = 1  # of a cell's file; those of 0.1.0 to 0.3.0 have neither schema nor digest

# Versions of influencekit that give the same numbers: a cell of any of them is a cell of all.
SAME_NUMBERS = ("0.1.0", "0.2.0", "0.3.0", "0.4.0")


@dataclass(frozen=True)
class Cell:
    """One experiment on one seed of a workload (a spec), with the experiment's own options.

    `again` trains on the seed's examples once more, see `experiments.problem_of`. `sources`: paths of this
    machine, for an experiment that makes its own problem; what they hold is told by digests in the options.
    """

    experiment: str
    workload: str
    seed: int
    options: tuple[tuple[str, Any], ...] = ()
    again: str = ""
    sources: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        words = [self.experiment, self.workload, f"seed {self.seed}", *(f"{k} {v}" for k, v in self.options)]
        return ", ".join([*words, f"again with other {self.again}"] if self.again else words)

    @property
    def file(self) -> str:
        """Its file below the folder of the reproduction; different cells have different ones."""
        words = [self.workload.replace(":", "-").replace("=", "_")]
        words += [*(f"{k}_{v}" for k, v in self.options), *([f"again_{self.again}"] if self.again else [])]
        return f"cells/{self.experiment}/{'-'.join(words)}-seed_{self.seed}.json"


@dataclass(frozen=True)
class Result:
    """What a cell gave, the seconds that took, and the machine in words.

    `checked`: done now, or read from a file with a digest.
    """

    found: dict[str, Any]
    seconds: float
    machine: str
    checked: bool = True


def made_with(cell: Cell, device: str) -> dict[str, Any]:
    """Whatever a cell's numbers depend on: a file that says something else is done again."""
    import torch

    return {
        "influencekit": ik.__version__,
        "torch": torch.__version__,
        "device": device,
        "revision": EXPERIMENTS[cell.experiment].revision,
        "experiment": cell.experiment,
        "workload": cell.workload,
        "seed": cell.seed,
        "again": cell.again,
        "options": dict(cell.options),
    }


def run(cell: Cell, device: str) -> Result:
    """Do the cell. Errors: those of the experiment, with the cell's name before them."""
    began = time.perf_counter()
    try:
        experiment, options = EXPERIMENTS[cell.experiment], dict(cell.options)
        if experiment.own:
            found = experiment.run(cell.sources, cell.seed, device=device, **options)
        else:
            problem = problem_of(cell.workload, cell.seed, device, cell.again)
            found = experiment.run(problem, cell.seed, **options)
    except InfluenceKitError as error:
        raise type(error)(f"{cell}: {error}") from error
    return Result(found, time.perf_counter() - began, _machine(device))


def save(folder: Path, cell: Cell, device: str, result: Result) -> None:
    """Write the cell's file in one act: it is there as a whole, or not at all."""
    path = folder / cell.file
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "schema": SCHEMA, "made_with": made_with(cell, device), "seconds": round(result.seconds, 2),
        "machine": result.machine, "found": result.found,
    }  # fmt: skip
    replace_file(path, sealed(content))


def replace_file(path: Path, text: str) -> None:
    """Write a text file as a whole, over what is there."""
    with whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def load(folder: Path, cell: Cell, device: str) -> Result | None:
    """The saved result of a cell; None where there is none, or one made with other options or versions.

    Errors: a file that is not what was written, or of another cell.
    """
    path = folder / cell.file
    try:
        content, checked = read_sealed(path)
        made, mine = content.get("made_with"), made_with(cell, device)
        if checked and (schema := repr(content.get("schema"))[:20]) != str(SCHEMA):
            raise ValueError(f"its schema is {schema}, this version reads {SCHEMA}")
        if not isinstance(made, dict) or made.keys() != mine.keys() or checked != ("schema" in content):
            raise ValueError("entries are missing")
        if wrong := [name for name in _WHICH if made[name] != mine[name]]:
            raise ValueError(f"it is of another cell, with another {wrong[0]}")
        if _comparable(made) != _comparable(mine):
            return None
        if words := misfit(cell.experiment, content):
            raise ValueError(words)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"{path} cannot be used: {reason}; delete it, and the cell is done again") from error
    return Result(dict(content["found"]), float(content["seconds"]), content["machine"], checked)


_WHICH = ("experiment", "workload", "seed", "again", "options")


def _comparable(made: dict[str, Any]) -> dict[str, Any]:
    """`made_with`, where versions that give the same numbers are one version."""
    return made | {"influencekit": SAME_NUMBERS[-1]} if made["influencekit"] in SAME_NUMBERS else made


def _machine(device: str) -> str:
    """This machine in words."""
    import platform

    import torch

    if device != "cpu":
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()}-core {platform.machine()} CPU"
