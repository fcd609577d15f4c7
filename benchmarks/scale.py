"""What do a million examples cost, and does a model of the cost that was set on few of them say it before?

Logistic regression on 20 inputs, one epoch in batches of 100, SGD. Processor seconds of one thread, bytes
on disk and peak memory: of plain training, of recording (every-k:k=50), of opening, of a sweep (`dit`), of
contributions that are written to disk, and of `loo` of eight examples. Every n has three processes of its
own, each begins with a small run that is not measured; times are the least of the rounds, of which large n
have one. The two smallest n give the constants of the model, the others are predicted.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from torch import nn

import influencekit as ik
from benchmarks.shared.cost_model import COSTS, MACHINES, Cost, predicted, simulated
from benchmarks.shared.processes import alone, count_the_peak_from_here, memory
from benchmarks.shared.results import kept, merged
from benchmarks.shared.training import train_plainly

TAKES = "5 min"
BATCH, INPUTS, EVERY, LEFT_OUT = 100, 20, 50, 8
SIZES = (30_000, 100_000, 300_000, 1_000_000)
ONCE = 200_000  # examples: above, one round
WORK = ("plain", "record", "open", "sweep", "contributions", "loo of 8")
SHARES = [(*WORK[:4],), ("record", "open", WORK[4]), ("record", "open", WORK[5])]
BYTES = ("states", "losses", "indices", "contributions")
QUICK = {"sizes": "400,800,1200", "rounds": 1}


def loss(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(z[:, 0], y, reduction="none")


def problem(n: int) -> ik.Workload:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, INPUTS, generator=generator)
    y = (x[:, 0] + x[:, 1] + torch.randn(n, generator=generator) > 0).float()
    model = nn.Linear(INPUTS, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return ik.Workload(
        model=model, loss=loss,
        train=(x, y), test=(x[:500], y[:500]), optimizer=ik.SGD(lr=0.5), epochs=1, batch_size=BATCH,
    )  # fmt: skip


def measure(n: int, rounds: int, jobs: Sequence[str] = WORK) -> dict:
    """One n: {work: processor seconds}, {what: bytes}, {work: MB at the peak beyond the data}."""
    torch.set_num_threads(1)
    if rounds:
        measure(2 * BATCH, 0, jobs)  # imports, and whatever else is done once
    workload = problem(n)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    peak: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object]) -> object:
        if name not in jobs:
            return None
        before, busy = count_the_peak_from_here(), time.process_time()
        found = work()
        seconds[name].append(time.process_time() - busy)
        peak[name] = max(peak.get(name, 0.0), memory("VmHWM") - before)
        return found

    for _ in range(max(1, rounds if n <= ONCE else 1)):
        with TemporaryDirectory() as folder:
            found = everything(workload, Path(folder), timed)
    least = {name: min(each) for name, each in seconds.items()}
    return found | {"seconds": least, "peak_mb": peak}


def everything(workload: ik.Workload, folder: Path, timed: Callable[[str, Any], Any]) -> dict[str, Any]:
    """All of the work, once; steps, accuracy and bytes."""
    store, parts = folder / "run.zarr", folder / "parts.zarr"
    loo = ik.make("estimator", "loo", examples=LEFT_OUT)
    timed("plain", lambda: train_plainly(workload))
    timed("record", lambda: ik.record(workload, f"every-k:k={EVERY}", store=store))
    run = timed("open", lambda: ik.open(store, workload))
    scores = timed("sweep", lambda: ik.estimate(run, "test-loss", "dit"))
    timed("contributions", lambda: ik.contributions(run, at=[run.steps], store=parts))
    timed("loo of 8", lambda: ik.estimate(run, "test-loss", loo))
    assert scores is None or scores.influence.notnull().all()
    size = {name: disk(store / name) for name in ("theta", "loss", "batch", "train")}
    written = (size["theta"], size["loss"], size["batch"] + size["train"], disk(parts / "contribution"))
    return {
        "steps": run.steps,
        "accuracy": run.attrs["accuracy"],
        "bytes": dict(zip(BYTES, written, strict=True)),
    }


def together(n: int, rounds: int, processes: int) -> dict[str, Any]:
    """All the work of one n, each share of it in a process of its own."""
    with ThreadPoolExecutor(processes) as pool:
        shares = list(pool.map(partial(alone, measure, n, rounds), SHARES))
    found = reduce(merged, shares[1:], shares[0])
    for kind, least in (("seconds", min), ("peak_mb", max), ("bytes", max)):
        found[kind] = {
            name: least(share[kind][name] for share in shares if name in share[kind]) for name in found[kind]
        }
    return found


def disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@click.option("--sizes", default=",".join(map(str, SIZES)), metavar="N,N,...", help="Training examples.")
@click.option("--rounds", default=3)
@click.option("--folder", type=click.Path(path_type=Path), help="Where each n is kept when it is done.")
@click.option("--processes", default=1, help="At once, for one n.")
def answer(sizes: str, rounds: int, folder: Path | None, processes: int) -> dict:
    found = {}
    with TemporaryDirectory() as own:
        for n in map(int, sizes.split(",")):
            found[n] = kept(folder or Path(own), f"n{n}", partial(together, n, rounds, processes))
            print(n, found[n], flush=True)
    costs = {n: Cost(n, each["steps"], BATCH, each) for n, each in found.items()}
    points = predicted(costs)
    return {
        "parameters": INPUTS + 1,
        "batch": BATCH,
        "every": EVERY,
        "rounds": rounds,
        "load": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "points": {str(n): each | {"predicted": points.get(n)} for n, each in found.items()},
        "largest_error": errors(found, points),
        "machines": MACHINES,
        "simulated": {name: simulated(cost) for name, cost in COSTS.items()},
    }


def errors(found: dict[int, Any], points: dict[int, Any]) -> dict[str, float]:
    """The largest relative errors: of seconds, of seconds relative to plain training, of bytes."""
    largest = dict.fromkeys(("seconds", "ratios", "bytes"), 0.0)
    for n, said in points.items():
        seconds, predictions = found[n]["seconds"], said["seconds"]
        machine = seconds["plain"] / predictions["plain"]  # how much slower it was
        for name, value in seconds.items():
            largest["seconds"] = max(largest["seconds"], abs(predictions[name] / value - 1))
            largest["ratios"] = max(largest["ratios"], abs(predictions[name] * machine / value - 1))
        for name, value in found[n]["bytes"].items():
            largest["bytes"] = max(largest["bytes"], abs(said["bytes"][name] / value - 1))
    return largest
