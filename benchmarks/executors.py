"""Do workers give the bits of one process, and how fast, and what does a worker that is killed cost?

Leave-one-out of a CNN on a sample of its examples: in this process, on one worker process and on two, in
turn, each time into a new folder of slices. Workers have opened the run before the clock starts; what that
takes is measured by itself. Then workers are killed: those of a pool of this machine, and two of the three of
a dask cluster. All results are compared with that of this process, bit for bit.
"""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import influencekit as ik
from influencekit._executors.processes import Processes
from influencekit.registry import label

TAKES = "10 min"
CASES = ("time", "processes", "dask")
MERGES = True
QUICK = {"workload": "mnist-1v7-lr:n_train=48", "rounds": 1}
LOST = "mnist-1v7-lr:n_train=48"
PAUSE = 0.2  # seconds between two kills


def scores(run: Any, examples: int, seed: int = 0, executor: Any = None) -> np.ndarray:
    """Leave-one-out of so many examples, one model after the other, so that there is something to cut."""
    spec = f"loo:examples={examples}:seed={seed}:strategy=loop"
    return ik.estimate(run, "test-loss", spec, executor=executor).influence.values


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def killed_while(work: Callable[[], Any], folder: Path, pids: Callable[[], list[int]], kills: int) -> Any:
    """What the work gives, and how many workers were killed after its first slice and before its last."""
    done, count = threading.Event(), [0]

    def kill() -> None:
        while count[0] < kills and not done.wait(PAUSE):
            if any(folder.glob("effects-*.zarr")) and (alive := pids()):
                os.kill(alive[0], signal.SIGKILL)
                count[0] += 1

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        return work(), count[0]
    finally:
        done.set()
        thread.join()


def on_processes(run: Any, examples: int, folder: Path) -> tuple[np.ndarray, int]:
    """Two processes of this machine, one of which is killed."""
    with Processes(2) as pool:
        return killed_while(
            lambda: scores(run, examples, executor=ik.Workers(pool, folder)), folder,
            lambda: [child.pid for child in pool._ours if child.is_alive() and child.pid], 1,
        )  # fmt: skip


def on_dask(run: Any, examples: int, folder: Path) -> tuple[np.ndarray, int]:
    """Three worker processes of a dask cluster, two of which are killed."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        workers = ik.Workers(client.get_executor(pure=False, retries=3), folder)
        victims = sorted(worker.pid for worker in cluster.workers.values())[:2]
        return killed_while(
            lambda: scores(run, examples, executor=workers), folder, lambda: [victims.pop()], len(victims)
        )


def survived(kind: str, examples: int, folder: Path) -> dict[str, Any]:
    """Whether retraining without each of some examples gives the bits of this process, though workers die."""
    run = ik.record(ik.make("workload", LOST), store=folder / f"{kind}.zarr")
    found, kills = {"processes": on_processes, "dask": on_dask}[kind](run, examples, folder / kind)
    same = np.array_equal(found, scores(run, examples), equal_nan=True)
    return {"workload": LOST, "examples": examples, "kills": kills, "same": bool(same)}


def timed(workload: str, examples: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Seconds here, on one worker and on two, in turn; the load of the machine; are all results the same?"""
    spent: dict[str, list[float]] = {"here": [], "1 worker": [], "2 workers": []}
    load, same = [], []
    with Processes(1) as one, Processes(2) as two:
        for pool in (one, two, two):
            pool.submit(ready)
        pools, begun = {"1 worker": one, "2 workers": two}, {}
        run = ik.record(ik.make("workload", workload), store=folder / "timed.zarr")
        truth = scores(run, examples)  # traces, too
        for count, (kind, pool) in enumerate(pools.items(), 1):  # a slice for each worker, at the same time
            warm = ik.Workers(pool, folder / f"begun-{count}")
            begun[kind] = seconds_of(lambda w=warm, n=count: scores(run, 4 * n, 1, w))[0]
        for number in range(rounds):
            load.append(os.getloadavg()[0])
            for kind in spent:
                workers = ik.Workers(pools[kind], folder / f"{kind}-{number}") if kind in pools else None
                took, found = seconds_of(lambda w=workers: scores(run, examples, executor=w))
                spent[kind].append(took)
                same.append(bool(np.array_equal(found, truth, equal_nan=True)))
            print(spent, load, same, flush=True)
    here = np.array(spent["here"])
    speed = {kind: (here / np.array(each)).tolist() for kind, each in spent.items()}
    return {
        "workload": workload, "examples": examples, "seconds": spent, "speed": speed, "load": load,
        "first slice": begun, "same": same,
    }  # fmt: skip


def ready() -> str:
    """In a worker: what it needs is imported."""
    return label(ik.make("workload", LOST))


@click.option("--workload", default="mnist-1v7-cnn:setting=trained:epochs=1", show_default=True)
@click.option("--examples", default=8, help="Left out, one at a time, where time is taken.")
@click.option("--rounds", default=2)
@click.option("--lost", default=24, help="Examples left out where workers are killed.")
def answer(workload: str, examples: int, rounds: int, lost: int, cases: list[str]) -> dict:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for case in cases:
            if case == "time":
                found[case] = timed(workload, examples, rounds, Path(name))
            else:
                found[case] = survived(case, lost, Path(name))
    return found


def wrong(report: dict) -> list[str]:
    found = (
        [] if all(report.get("time", {}).get("same", ())) else ["workers give other bits than one process"]
    )
    for name in ("processes", "dask"):
        if row := report.get(name):
            found += [] if row["same"] else [f"{name}: other bits after {row['kills']} kills"]
            found += [] if row["kills"] else [f"{name}: nothing was killed"]
    return found
