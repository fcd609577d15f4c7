"""What does influencekit do on a GPU: right, fast, bitwise? One script, the most valuable parts first.

    python benchmarks/gpu.py --minutes 8                       where there is a CUDA device
    python -m benchmarks gpu --device cpu --quick --save FILE   the same script, tried on a processor

It saves after each part, names the device, and says what it could not do: a part that fails or does not fit
into the minutes that are left is one line of the result. torch 2.11 or newer. On a machine that is lent,
without network, it needs the wheels of zarr, numcodecs, donfig and google-crc32c (for Gemma and MiniLM their
weights as well), and is called there by
    pip install -q --no-index --no-deps --target /tmp/site .whl/*.whl; PYTHONPATH=/tmp/site:. python3
    benchmarks/gpu.py --minutes 8 --save $OUT/gpu.json
Figures of the CPU are made beside those of the GPU in the same run. No result is committed until somebody
has had a GPU: then name gpu.json in RESULTS, and in docs/_tables/sources.py.
"""

import importlib
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import torch
from torch import nn

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import influencekit as ik  # noqa: E402
from benchmarks.shared.results import RESULTS as FOLDER  # noqa: E402
from benchmarks.shared.results import ROOT, machine, save  # noqa: E402
from benchmarks.shared.timing import side_by_side, timed  # noqa: E402
from benchmarks.shared.training import train_plainly  # noqa: E402

TAKES = "8 min"
RESULTS = ()
QUICK: dict[str, Any] = {"quick_sizes": True}
METRICS = ("pearson", "spearman", "kendall", "jaccard")
TABLE2 = ("mnist-1v7-lr", "mnist-1v7-dnn", "adult-lr", "adult-dnn", "20news-lr", "20news-dnn")
ONES_AND_SEVENS = 12_396
RESERVE = 10.0  # seconds that are kept for writing


@dataclass(frozen=True)
class Asked:
    """How much is done. `until`: of the clock `time.monotonic`."""

    device: str
    quick: bool
    until: float

    def left(self) -> float:
        return self.until - time.monotonic()

    def workload(self, name: str, **options: Any) -> ik.Workload:
        if self.quick:
            options = {"n_train": 16, "epochs": 2, "batch_size": 8} | options
        return ik.make("workload", name, **({"setting": "trained"} | options)).to(self.device)


def tests(asked: Asked) -> dict[str, Any]:
    """The tests that are marked `gpu`. Without a device they are skipped, which is told as well."""
    where = ["tests/test_gpu.py"] if asked.quick else ["tests", "--ignore=tests/test_docs.py"]
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-rfE", *where]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, timeout=max(60.0, asked.left() / 2)
    )
    lines = done.stdout.splitlines()
    if not lines or done.returncode not in (0, 1):
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", lines[-1])}
    return {**counts, "not passed": [line for line in lines if line.startswith(("FAILED", "ERROR"))]}


def table2(asked: Asked) -> dict[str, Any]:
    """The four metrics of the paper's Table II of `dit` and `if`, here and on the CPU, by `compare`."""
    found = {}
    for name in TABLE2[: 1 if asked.quick else None]:
        both = {}
        for device in dict.fromkeys((asked.device, "cpu")):
            build = partial(in_the_setting, replace(asked, device=device), name)
            both[device], seconds = timed(partial(ik.compare, build, ["dit", "if"], seeds=(0,)))
            both[device].attrs["seconds"] = seconds
        here, there = both[asked.device], both["cpu"]
        gap = abs(here.influence - there.influence).max(("window", "train", "query", "seed"))
        scale = abs(there.influence).max(("window", "train", "query", "seed"))
        found[name] = {
            "accuracy": here.accuracy.mean().item(),
            "seconds": {device: result.attrs["seconds"] for device, result in both.items()},
            "largest difference of scores to the CPU's": {
                str(e): (gap / scale).sel(estimator=e).max().item() for e in here.estimator.values
            },
            **{
                device: {
                    method: {m: r.agreement.sel(estimator=method, metric=m).mean().item() for m in METRICS}
                    for method in ("dit", "if")
                }
                for device, r in both.items()
            },
        }
    return found


def in_the_setting(asked: Asked, name: str, seed: int) -> ik.Workload:
    """The workload of a seed as the paper trains it; a smaller one that learns for a quick look."""
    return asked.workload(name, seed=seed, **({} if asked.quick else {"setting": "paper"}))


def replay(asked: Asked) -> dict[str, Any]:
    """Is a run that is replayed from its stored states the recorded one, bit for bit? And how far is a run
    here from the same run on the CPU?"""
    found = {}
    for kind in ("lr", "dnn", "cnn"):
        work = asked.workload(f"mnist-1v7-{kind}")
        with TemporaryDirectory() as folder:
            run = ik.record(work, "every-k:k=5", store=Path(folder) / "run.zarr")
            seen = ik.verify(run)
            ends = [run.final.theta.cpu(), ik.record(work.to("cpu")).final.theta.cpu()]
        moved = ends[1] - work.theta0.cpu()
        found[kind] = {
            "steps": seen.steps,
            "gap to the update": seen.gap,
            "bitwise": seen.gap == 0,
            "distance to the run on the CPU": ((ends[0] - ends[1]).norm() / moved.norm()).item(),
        }
    return found


def small_models(asked: Asked) -> dict[str, Any]:
    """Recording, a sweep and `loo` beside the plain loop; `loo` of the CNN is of 4 examples here."""
    return {
        kind: costs(asked.workload(f"mnist-1v7-{kind}"), train_plainly, asked)
        for kind in ("lr", "dnn", "cnn")
    }


def costs(
    work: ik.Workload, plainly: Callable[[ik.Workload], object], asked: Asked, recorder: str = "full"
) -> dict[str, Any]:
    """Ratios to the plain loop, the median of three rounds, and the peaks of the device's memory in MB."""
    run = ik.record(work, recorder)
    dit = ik.make("estimator", "dit")
    jobs: dict[str, Callable[[], object]] = {
        "plain": lambda: plainly(work),
        "recording": lambda: ik.record(work, recorder, step=run.step),
        "sweep": lambda: ik.estimate(run, "test-loss", dit),
    }
    peaks = {name: measured(asked, job)[1] for name, job in jobs.items()}  # once, which traces as well
    times = side_by_side(jobs, 1 if asked.quick else 3)
    return {
        "steps": run.steps,
        "parameters": work.n_params,
        "accuracy": run.attrs["accuracy"],
        "plain_ms_a_step": 1e3 * times.median("plain") / run.steps,
        **{f"{name} to plain": times.ratio(name, "plain") for name in ("recording", "sweep")},
        "peak_mb": peaks,
    }


def loo_of_the_cnn(asked: Asked) -> dict[str, Any]:
    """Exact `loo` of all 256 examples, its agreement with `dit`, and of four of them that on the CPU."""
    return exact(asked, asked.workload("mnist-1v7-cnn"), 1.0)


def loo_of_ones_and_sevens(asked: Asked) -> dict[str, Any]:
    """Exact `loo` of all ones and sevens of MNIST that are left for training, by the DNN in two epochs; as
    many of them as fit into the time."""
    n = 32 if asked.quick else ONES_AND_SEVENS
    return exact(asked, asked.workload("mnist-1v7-dnn", n_train=n, epochs=2), 0.9)


def exact(asked: Asked, work: ik.Workload, fraction: float) -> dict[str, Any]:
    """`loo` of all examples if it fits into this fraction of the time left, else of those that do."""
    run = ik.record(work)
    probe = min(work.n_train, 4 if asked.quick else max(64, work.n_train // 48))
    first = ik.make("estimator", "loo", examples=probe)
    ik.estimate(run, "test-loss", first)  # which traces
    _, seconds = timed(lambda: ik.estimate(run, "test-loss", first))
    fits = int(max(0.0, asked.left() - 3 * RESERVE) * fraction / seconds * probe)
    count = work.n_train if fits >= work.n_train else max(probe, fits)
    method = ik.make("estimator", "loo", examples=None if count == work.n_train else count)
    truth, took = timed(lambda: ik.estimate(run, "test-loss", method))
    known = truth.influence.notnull().values.ravel()
    mine, theirs = (x.influence.values.ravel()[known] for x in (truth, ik.estimate(run, "test-loss", "dit")))
    there = ik.estimate(ik.record(work.to("cpu")), "test-loss", ik.make("estimator", "loo", examples=4))
    some = there.influence.notnull().values.ravel()
    gap = abs(truth.influence.values.ravel() - there.influence.values.ravel())[some & known]
    return {
        "train": work.n_train,
        "steps": run.steps,
        "accuracy": run.attrs["accuracy"],
        "retrained": int(known.sum()),
        "seconds": took,
        "seconds for all": took * work.n_train / max(1, int(known.sum())),
        "pearson of dit": float(np.corrcoef(mine, theirs)[0, 1]),
        "difference to the CPU's, of the largest": float(gap.max() / abs(mine).max()) if len(gap) else None,
    }


def minilm(asked: Asked) -> dict[str, Any]:
    """A fine-tune of all of MiniLM on newsgroups: recording and a sweep beside the plain loop."""
    from benchmarks.minilm.case import case

    work = case("adamw", 5e-5, 0, n_train=16 if asked.quick else 256).workload
    return costs(work.to(asked.device), train_on_dicts, asked, "every-k:k=16")


def train_on_dicts(work: ik.Workload) -> None:
    """The plain loop of the MiniLM fine-tune."""
    model, plan = deepcopy(work.model), work.plan
    data: Any = work.train
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    for t in range(plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.lrs(t)[0]
        batch = {name: x[plan.batch(t)] for name, x in data.items()}
        optimizer.zero_grad()
        logits = model(batch["input_ids"], batch["attention_mask"])
        nn.functional.binary_cross_entropy_with_logits(logits, batch["labels"]).backward()
        optimizer.step()


def gemma(asked: Asked) -> dict[str, Any]:
    """Gemma's adapters, by the problem of benchmarks/gemma: a tape, opening and a sweep beside the loop."""
    module = importlib.import_module("benchmarks.gemma.case")
    seconds, peaks = {}, {}
    with TemporaryDirectory() as place:
        case, store = module.Case(Path(place)), Path(place) / "run.zarr"
        case.data = [{name: x.to(asked.device) for name, x in row.items()} for row in case.data]
        case.test = {name: x.to(asked.device) for name, x in case.test.items()}
        alone, taped = (case.model().to(asked.device) for _ in range(2))
        rule = module.optimizer(alone)
        jobs: dict[str, Callable[[], Any]] = {
            "loop": lambda: case.train(alone, enumerate(case.loader()), rule),
            "tape": lambda: case.record(store, taped),
            "open": lambda: case.open(store, taped),
        }
        found = None
        for name, job in jobs.items():
            (found, seconds[name]), peaks[name] = measured(asked, job)
        (_, seconds["sweep"]), peaks["sweep"] = measured(
            asked, lambda: ik.estimate(found, "test-loss", "dit")
        )
    return {
        "trained": found.workload.n_params,
        "seconds": seconds,
        "peak_mb": peaks,
        **{f"{name} to loop": seconds[name] / seconds["loop"] for name in ("tape", "open", "sweep")},
    }


def measured(asked: Asked, job: Callable[[], Any]) -> tuple[tuple[Any, float], float]:
    """What a job gives, its seconds, and the peak of the device's memory in MB (NaN on a CPU)."""
    if asked.device != "cuda":
        return timed(job), math.nan
    torch.cuda.reset_peak_memory_stats()
    done = timed(job)
    return done, torch.cuda.max_memory_allocated() / 2**20


PARTS: Mapping[str, tuple[float, Callable[[Asked], Any]]] = {  # in order of value; seconds that each needs
    "tests": (60, tests),
    "table2": (60, table2),
    "replay": (20, replay),
    "small models": (30, small_models),
    "loo of the CNN": (30, loo_of_the_cnn),
    "MiniLM": (40, minilm),
    "Gemma's adapters": (60, gemma),
    "loo of ones and sevens": (30, loo_of_ones_and_sevens),
}
CASES = tuple(PARTS)


def run(asked: Asked, cases: list[str], write: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All parts, one after the other; `write` gets what is known after each."""
    found: dict[str, Any] = {"device": asked.device, "quick": asked.quick, "parts": {}, "not done": {}}
    for name in cases:
        seconds, part = PARTS[name]
        if asked.left() < (RESERVE if asked.quick else RESERVE + seconds):
            found["not done"][name] = f"{asked.left():.0f} s were left, and it needs about {seconds:.0f}"
        else:
            began = time.perf_counter()
            try:
                found["parts"][name] = part(asked)
            except (Exception, SystemExit) as error:  # the next part may well work
                line = (str(error).strip().splitlines() or [""])[0]
                found["not done"][name] = f"{type(error).__name__}: {line[:200]}"
            found.setdefault("seconds", {})[name] = time.perf_counter() - began
            if asked.device == "cuda":
                torch.cuda.empty_cache()
        said = found["not done"].get(name, "done")
        click.echo(f"{name}: {said} ({asked.left():.0f} s left)")
        write(found)
    return found


@click.option("--minutes", default=8.0, help="Of the clock, for all parts.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda")
@click.option("--save", "goal", type=click.Path(path_type=Path, dir_okay=False), default=FOLDER / "gpu.json")
def answer(minutes: float, device: str, goal: Path, cases: list[str], quick_sizes: bool = False) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException(
            f"torch {torch.__version__} sees no CUDA device; --device cpu --quick tries the script"
        )
    head = {
        "command": f"python benchmarks/gpu.py --minutes {minutes:g} --device {device}",
        "machine": machine() if device == "cuda" else f"{machine()}: tried on a processor, no figure counts",
        "influencekit": ik.__version__,
        "cuda": torch.version.cuda,
    }
    asked = Asked(device, quick_sizes, time.monotonic() + 60 * minutes)
    run(asked, cases, lambda found: save(goal, head | found))


if __name__ == "__main__":
    from benchmarks.__main__ import main

    main(["gpu", *sys.argv[1:]], prog_name="python benchmarks/gpu.py", standalone_mode=True)
