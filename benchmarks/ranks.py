"""How much faster is a sweep on 2 and 3 ranks, and is it the same?

Each rank is a process with one thread, in a gloo group on this machine. Time is the processor time of the
busiest rank, its sums included: that of one process divided by it is the speed-up on a machine that has a
free core for each rank, but for the time that messages need. Wall time on this machine, of two cores that
others share, stands beside it. All in float64; the largest difference of scores is relative to the largest
score. `replay`: what states cost that every rank replays for itself, as a part of a sweep that stores none.
"""

import multiprocessing
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

import influencekit as ik
from benchmarks.shared.results import each

TAKES = "6 min"
SIZES = (2, 3)
ROUNDS = 2
QUICK = {"cases": ["lr"]}


def _wide() -> ik.Workload:
    """Two layers of 784-512-10 in batches of 512, on random data: arithmetic, and 3.3 MB to sum a step."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 784, generator=draw)
    y = torch.randint(10, (1024,), generator=draw)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 512), nn.Tanh(), nn.Linear(512, 10))
    loss = nn.CrossEntropyLoss(reduction="none")
    return ik.Workload(
        model=model, loss=loss, train=(x, y), test=(x[:64], y[:64]), optimizer=ik.SGD(lr=0.05),
        batch_size=512, epochs=2,
    )  # fmt: skip


CASES = {
    "lr": lambda: ik.make("workload", "mnist-1v7-lr", setting="trained", epochs=4),
    "wide": _wide,
}


def _timed(run: Any, group: Any) -> tuple[np.ndarray, float, float]:
    """Scores, and the medians of processor and wall seconds; the first call, which traces, does not count."""
    scores, spent = ik.estimate(run, "test-loss", "dit", group=group).influence.values, []
    for _ in range(ROUNDS):
        began = time.process_time(), time.perf_counter()
        ik.estimate(run, "test-loss", "dit", group=group)
        spent.append((time.process_time() - began[0], time.perf_counter() - began[1]))
    return scores, *(median(column) for column in zip(*spent, strict=True))


def _rank(rank: int, size: int, path: str, run: Any, answers: Any) -> None:
    torch.set_num_threads(1)
    group = None
    if size > 1:
        dist.init_process_group("gloo", init_method=Path(path).as_uri(), rank=rank, world_size=size)
        group = dist.group.WORLD
    answers.put((rank, *_timed(run, group)))
    if size > 1:
        dist.destroy_process_group()


def _asked(run: Any, size: int) -> tuple[np.ndarray, float, float]:
    """Scores, processor seconds of the busiest rank, wall seconds of the slowest."""
    context = multiprocessing.get_context("fork")
    answers, path = context.Queue(), f"{tempfile.mkdtemp()}/group"
    ranks = [context.Process(target=_rank, args=(r, size, path, run, answers)) for r in range(size)]
    for process in ranks:
        process.start()
    found = [answers.get(timeout=600) for _ in ranks]
    for process in ranks:
        process.join()
    return min(found, key=lambda one: one[0])[1], max(one[2] for one in found), max(one[3] for one in found)


def measure(kind: str) -> dict[str, Any]:
    workload = CASES[kind]().to(dtype=torch.float64)
    run = ik.record(workload)
    scores, busy, wall = _asked(run, 1)
    replayed = _asked(ik.record(workload, recorder=f"every-k:k={run.steps}"), 1)[1]
    found: dict[str, Any] = {
        "parameters": workload.n_params, "batch": workload.batch_size, "steps": run.steps,
        "one_process_seconds": round(busy, 3), "replay": round(max(0.0, 1 - busy / replayed), 3), "ranks": {},
    }  # fmt: skip
    for size in SIZES:
        others, each_busy, each_wall = _asked(run, size)
        found["ranks"][str(size)] = {
            "speedup": round(busy / each_busy, 2),
            "wall_speedup": round(wall / each_wall, 2),
            "difference": float(f"{np.abs(others - scores).max() / np.abs(scores).max():.1e}"),
        }
    return found


def answer(cases: list[str]) -> dict:
    return {"threads": 1, "rounds": ROUNDS, "cases": each(cases, measure)}
