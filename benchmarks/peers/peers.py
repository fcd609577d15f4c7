"""How does influencekit compare with dattri, kronfluence, pyDVL, captum and traker?

Task: MNIST 1 against 7 in the setting `trained`; the query is the mean test loss; the truth is exact
retraining without each example (without 64 of them for the CNN). An environment of its own with pinned
versions is made below --work; every method runs there in a process of its own, with one thread, on the
same trained model. A method that fails gives a row that says why. Finished cells are kept below --work and
not computed again.
"""

import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.peers.case import solve
from benchmarks.peers.method import Method, methods, scored
from benchmarks.shared.processes import Failed, alone
from benchmarks.shared.results import ROOT
from influencekit.metrics import METRICS, agreement

TAKES = "2 hours"
CASES = ("lr", "dnn", "cnn")
QUICK = {"seeds": 1, "cases": ["lr"], "names": "influencekit dit$", "python": Path(sys.executable)}
BASELINES = ROOT / "plugins" / "influencekit-baselines"
# What is compared, as it was measured; --no-deps, because kronfluence would bring torchvision and pyDVL an
# old numpy. What they really import follows.
PEERS = ["dattri==0.3.0", "kronfluence==1.0.1", "pyDVL==0.10.0", "captum==0.9.0", "traker==0.3.2"]
NEEDED = [
    "torch==2.13.0", "numpy==2.4.6", "scipy==1.17.1", "xarray==2026.9.0", "zarr==3.1.6", "click==8.5.1",
    "matplotlib==3.11.2", "scikit-learn==1.9.1", "pandas==3.1.1", "psutil==7.2.2", "tqdm==4.70.1",
    "joblib==1.6.0", "cloudpickle==3.1.2", "more-itertools==11.2.1", "pyDeprecate==0.14.0", "pyyaml==6.0.3",
    "accelerate==1.15.0", "einops==0.8.2", "einconv==0.1.0", "opt-einsum==3.4.0", "safetensors==0.8.0",
    "dask==2026.8.0", "distributed==2026.8.0", "hatchling>=1.27", "editables",
]  # fmt: skip
EXAMPLES = {"cnn": 64}  # whose removal is retrained; a CNN is retrained one by one on a CPU
FEWER = {"cnn": 2}  # seeds; a case of the CNN is ten minutes of retraining
LIMIT = 100  # seconds of the processor that a process may take


def environment(folder: Path) -> Path:
    """The Python of an environment with all packages, made once."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *NEEDED], check=True)
        subprocess.run([*pip, "--no-deps", *PEERS], check=True)
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", str(ROOT), str(BASELINES)], check=True)
        (folder / "complete").touch()
    return python


def cell(python: Path, method: Method, case: Path, kept: Path) -> dict[str, Any]:
    """One method on one case; what went wrong stands under `failed`."""
    if not kept.exists():
        try:
            found = alone(
                scored, method.name, str(case), python=python, limit=LIMIT,
                environment={"PYTHONPATH": str(BASELINES / "src"), "MPLBACKEND": "agg"},
            )  # fmt: skip
        except Failed as failure:
            found = {"failed": str(failure)}
        kept.write_text(json.dumps(found))
    found = json.loads(kept.read_text())
    scores = torch.tensor(found.pop("scores", []), dtype=torch.float64)
    with np.load(case) as truth:
        exact = torch.from_numpy(truth["truth"]).double()
    known = exact.isfinite()
    if not found.get("failed") and not scores[known].isfinite().all():
        bad = int((~scores.isfinite()).sum())
        found["failed"] = f"{bad} of {len(scores)} scores are not finite; no error"
    if not found.get("failed"):
        found |= dict(zip(METRICS, agreement(scores[known], exact[known]).tolist(), strict=True))
    return found


def summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds on which the method worked, and what it said where it did not."""
    worked = [c for c in cells if not c.get("failed")]
    said = sorted({c["failed"] for c in cells if c.get("failed")})
    numbers = [*METRICS, "seconds", "seconds_again", "wall_seconds", "memory_mb", "import_seconds"]
    numbers.append("set_up_seconds")

    def mean(name: str) -> float | None:
        values = [c[name] for c in worked if c.get(name) is not None]
        return sum(values) / len(values) if values else None

    return {"worked": len(worked), "of": len(cells), "failed": said} | {n: mean(n) for n in numbers}


def measure(kind: str, seeds: int, chosen: list[Method], python: Path, work: Path) -> dict[str, Any]:
    cases = [work / f"{kind}-{seed}.npz" for seed in range(seeds)][: FEWER.get(kind)]
    facts: dict[str, list[float]] = {}
    for seed, case in enumerate(cases):
        if not case.exists():
            alone(solve, kind, seed, str(case), EXAMPLES.get(kind))
        with np.load(case) as a:
            for name in ("accuracy", "seconds_truth", "seconds_plain", "seconds_recorded"):
                facts.setdefault(name, []).append(float(a[name]))
            compared, parameters = int(np.isfinite(a["truth"]).sum()), int(a["states"].shape[1])
    rows = {}
    for method in chosen:
        word = re.sub(r"[^a-z0-9]+", "-", method.name.lower())
        cells: list[dict[str, Any]] = []
        for case in cases[:1] if method.once else cases:
            if cells and str(cells[-1].get("failed")).startswith("more than"):
                break  # what takes too long once is not tried again
            cells.append(cell(python, method, case, case.with_name(f"{case.stem}-{word}.json")))
        names = ("name", "settings", "trajectory", "once")
        rows[method.name] = {name: getattr(method, name) for name in names} | summary(cells)
        print(kind, json.dumps(rows[method.name]), flush=True)
    return {"seeds": len(cases), "parameters": parameters, "compared": compared, "methods": rows} | {
        name: sum(values) / len(values) for name, values in facts.items()
    }


@click.option("--seeds", default=3, help="And 2 of the CNN.")
@click.option("--methods", "names", default=".", help="Only those whose names match.")
@click.option("--work", type=click.Path(path_type=Path), help="What is done already. Default: a new folder.")
def answer(seeds: int, names: str, work: Path | None, cases: list[str], python: Path | None = None) -> dict:
    work = work or Path(tempfile.mkdtemp(prefix="peers-"))
    work.mkdir(parents=True, exist_ok=True)
    python = python or environment(work / "environment")
    chosen = [method for method in methods().values() if re.search(names, method.name)]
    models = {kind: measure(kind, seeds, chosen, python, work.resolve()) for kind in cases}
    return {
        "threads": 1, "seeds": list(range(seeds)), "limit_seconds": LIMIT, "versions": PEERS,
        "models": models, "partial": names != "." or len(cases) < len(CASES),
    }  # fmt: skip
