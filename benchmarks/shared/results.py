"""The result files: what stands at their head, how they are written, and what is often put into them."""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def machine() -> str:
    """This machine in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return (
        f"{os.cpu_count()}-core {platform.machine()} CPU, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def load(path: Path) -> dict[str, Any]:
    """A result that is there already, or nothing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def save(path: Path, report: dict[str, Any]) -> None:
    """Write a result as a whole, in the place of one that may be there."""
    part = path.with_name(f"{path.name}.tmp")
    part.write_text(as_text(report), encoding="utf-8")
    os.replace(part, path)


def kept(
    folder: Path, name: str, make: Callable[[], dict[str, Any]], until: float = math.inf
) -> dict[str, Any]:
    """One piece of a long measurement: read where it is there, else made and kept; nothing where it is still
    to make after `until`, in seconds of the clock. What an older code made is not made again."""
    path = folder / f"{name}.json"
    if not path.exists() and time.time() < until:
        folder.mkdir(parents=True, exist_ok=True)
        save(path, make())
    return load(path)


def as_text(report: dict[str, Any]) -> str:
    """JSON; NaN is null; `rows` come last, a line each, for there may be thousands."""
    report = without_nan(report)
    rows = report.pop("rows", None)
    text = json.dumps(report, indent=1)
    if rows is not None:
        text = text[:-2] + ',\n "rows": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]\n}"
    return text + "\n"


def without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The old result with the parts of the new one in their place."""
    both = {k: merged(old[k], v) if isinstance(v, dict) and k in old else v for k, v in new.items()}
    return old | both


def each(names: Iterable[str], measure: Callable[[str], Any]) -> dict[str, Any]:
    """{name: what is measured}, printed as it comes."""
    found = {}
    for name in names:
        found[name] = measure(name)
        print(name, json.dumps(without_nan(found[name])), flush=True)
    return found


def spread(values: Any) -> dict[str, float]:
    """Mean and deviation over seeds."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}
