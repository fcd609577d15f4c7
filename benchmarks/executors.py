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

TAKES = "10 min"
QUICK = {"workload": "mnist-1v7-lr:n_train=48:epochs=20", "examples": 8, "rounds": 1, "lost": 40, "kills": 1}
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


def on_a_pool(run: Any, examples: int, folder: Path, kills: int) -> tuple[np.ndarray, int]:
    """Two processes of this machine, of which one is killed again and again."""
    with Processes(2) as pool:
        return killed_while(
            lambda: scores(run, examples, executor=ik.Workers(pool, folder)), folder,
            lambda: [child.pid for child in pool._ours if child.is_alive() and child.pid], kills,
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


@click.option("--workload", default="mnist-1v7-cnn:setting=trained:epochs=1", show_default=True)
@click.option("--examples", default=8, help="Left out, one at a time, where time is taken.")
@click.option("--rounds", default=3)
@click.option("--lost", default=12, help="Examples left out where workers are killed.")
@click.option("--kills", default=2, help="Of workers of a pool, one after another.")
def answer(workload: str, examples: int, rounds: int, lost: int, kills: int) -> dict:
    torch.set_num_threads(1)
    spent: dict[str, list[float]] = {"here": [], "1 worker": [], "2 workers": []}
    load, same = [], []
    with tempfile.TemporaryDirectory() as name, Processes(1) as one, Processes(2) as two:
        folder = Path(name)
        work = ik.make("workload", workload)
        training, run = seconds_of(lambda: ik.record(work, store=folder / "run.zarr"))
        truth = scores(run, examples)  # traces, too
        pools, begun = {"1 worker": one, "2 workers": two}, {}
        for count, (kind, pool) in enumerate(pools.items(), 1):  # a slice for each worker, at the same time
            warm = ik.Workers(pool, folder / f"begun-{count}")
            begun[kind] = seconds_of(lambda w=warm, n=count: scores(run, 4 * n, 1, w))[0]
        print(begun, flush=True)
        for number in range(rounds):
            load.append(os.getloadavg()[0])
            for kind in spent:
                workers = ik.Workers(pools[kind], folder / f"{kind}-{number}") if kind in pools else None
                took, found = seconds_of(lambda w=workers: scores(run, examples, executor=w))
                spent[kind].append(took)
                same.append(bool(np.array_equal(found, truth, equal_nan=True)))
            print(spent, load, same, flush=True)
        whole, survived = scores(run, lost), {}
        for kind, (found, killed) in {
            "processes": on_a_pool(run, lost, folder / "pool", kills),
            "dask": on_dask(run, lost, folder / "dask"),
        }.items():
            survived[kind] = {"kills": killed, "same": bool(np.array_equal(found, whole, equal_nan=True))}
    here = np.array(spent["here"])
    return {
        "workload": workload, "examples": examples, "training": training, "seconds": spent,
        "speed": {name: (here / np.array(each)).tolist() for name, each in spent.items()},
        "load": load, "begun": begun, "same": same, "examples, killed": lost, "survived": survived,
    }  # fmt: skip


def wrong(report: dict) -> list[str]:
    found = [] if all(report["same"]) else ["workers give other bits than one process"]
    for name, row in report["survived"].items():
        found += [] if row["same"] else [f"{name}: other bits after {row['kills']} kills"]
        found += [] if row["kills"] else [f"{name}: nothing was killed"]
    return found
