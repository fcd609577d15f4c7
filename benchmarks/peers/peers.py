"""influencekit beside dattri, kronfluence, pyDVL, captum and traker: agreement, seconds, memory.

    python benchmarks/peers.py [--seeds 0-2] [--models lr,dnn,cnn] [--methods REGEX] [--out FOLDER]

Task: MNIST 1 against 7 in the setting `trained`; the query is the mean test loss; the truth is exact
retraining without each example (without 64 of them for the CNN). An environment of its own with pinned
versions is made below --out; every method runs there in a process of its own, with one thread, on the
same trained model. A method that fails gives a row that says why. Finished cells are kept below --out and
not computed again.
"""

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine

from influencekit.metrics import METRICS, agreement

ROOT = Path(__file__).resolve().parents[1]
HERE, RESULTS = ROOT / "benchmarks", ROOT / "benchmarks" / "results" / "peers.json"

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
        ours = [str(ROOT), str(ROOT / "plugins" / "influencekit-baselines")]
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", *ours], check=True)
        (folder / "complete").touch()
    return python


def run(python: Path | str, script: str, *words: str, limit: int | None = None) -> str | None:
    """Why it failed, in one line, or None."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(HERE), "MPLBACKEND": "agg"}

    def limited() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))

    done = subprocess.run(
        [str(python), str(HERE / script), *words], capture_output=True, text=True, preexec_fn=limited,
        env={**os.environ, **threads},
    )  # fmt: skip
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        slow = -done.returncode in (signal.SIGXCPU, signal.SIGKILL)
        return f"more than {limit} s" if slow else f"killed by signal {-done.returncode}"
    said = [line for line in done.stderr.splitlines() if re.match(r"[\w.]+(Error|Exception):", line)]
    last = (said or done.stderr.splitlines() or ["no message"])[-1]
    return re.sub(r"(?<!\w)/\S+", "...", last.rpartition(": ")[2] if len(last) > 160 else last)[:160]


def cell(python: Path, method: dict, case: Path, kept: Path) -> dict[str, Any]:
    """One method on one case; what went wrong stands under `failed`."""
    if not kept.exists():
        raw = kept.with_suffix(".raw")
        failed = run(python, "peers_run.py", method["name"], str(case), str(raw), limit=LIMIT)
        kept.write_text(json.dumps({"failed": failed}) if failed else raw.read_text())
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0-2")
    parser.add_argument("--models", default="lr,dnn,cnn")
    parser.add_argument("--methods", default=".", help="only those whose names match; writes no result")
    parser.add_argument("--out", type=Path, help="environment, problems and cells; default: a new folder")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    out = options.out or Path(tempfile.mkdtemp(prefix="peers-"))
    out.mkdir(parents=True, exist_ok=True)
    python = environment(out / "environment")
    listing = (
        "import json, peers_run; print(json.dumps([{'name': m.name, 'settings': m.settings, "
        "'trajectory': m.trajectory, 'once': m.once} for m in peers_run.methods().values()]))"
    )
    told = subprocess.run(
        [str(python), "-c", listing], check=True, capture_output=True, text=True, cwd=HERE
    ).stdout
    chosen = [m for m in json.loads(told) if re.search(options.methods, m["name"])]
    report: dict[str, Any] = {
        "command": "python benchmarks/peers.py", "machine": machine(), "threads": 1, "seeds": list(seeds),
        "limit_seconds": LIMIT, "versions": PEERS, "models": {},
    }  # fmt: skip
    for kind in options.models.split(","):
        cases = []
        for seed in seeds[: FEWER.get(kind)]:
            cases.append(out / f"{kind}-{seed}.npz")
            if not cases[-1].exists():
                few = ["--examples", str(EXAMPLES[kind])] if kind in EXAMPLES else []
                failed, _ = run(
                    sys.executable, "peers_case.py", kind, str(seed), "--out", str(cases[-1]), *few
                )
                if failed:
                    raise SystemExit(f"{kind}, seed {seed}: {failed}")
        facts: dict[str, list[float]] = {}
        for case in cases:
            with np.load(case) as a:
                for name in ("accuracy", "seconds_truth", "seconds_plain", "seconds_recorded"):
                    facts.setdefault(name, []).append(float(a[name]))
                compared, parameters = int(np.isfinite(a["truth"]).sum()), int(a["states"].shape[1])
        rows = {}
        for method in chosen:
            word = re.sub(r"[^a-z0-9]+", "-", method["name"].lower())
            some = cases[:1] if method["once"] else cases
            kept = [case.with_name(f"{case.stem}-{word}.json") for case in some]
            cells: list[dict[str, Any]] = []
            for pair in zip(some, kept, strict=True):
                if cells and str(cells[-1].get("failed")).startswith("more than"):
                    break  # what takes too long once is not tried again
                cells.append(cell(python, method, *pair))
            rows[method["name"]] = method | summary(cells)
            print(kind, json.dumps(rows[method["name"]]), flush=True)
        report["models"][kind] = {
            "seeds": len(cases),
            "parameters": parameters,
            "compared": compared,
            "methods": rows,
        } | {name: sum(values) / len(values) for name, values in facts.items()}
        if options.methods == ".":
            RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
