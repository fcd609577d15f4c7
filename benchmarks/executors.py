"""Do workers give the bits of one process, and how fast, and what does a worker that is killed cost?

Leave-one-out of the CNN on a sample of its examples: in this process, on one worker process and on two, in
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

TAKES = "30 min"
QUICK = {"workload": "mnist-1v7-lr:n_train=24:epochs=2", "examples": 8, "rounds": 1, "kills": 1}
CNN = "mnist-1v7-cnn:setting=trained"


def scores(run: ik.Trajectory, examples: int, seed: int = 0, executor: Any = None) -> np.ndarray:
    """Leave-one-out of so many examples, one model after the other, so that there is something to cut."""
    spec = f"loo:examples={examples}:seed={seed}:strategy=loop"
    return ik.estimate(run, "test-loss", spec, executor=executor).influence.values


def seconds_of(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def killed_while(
    work: Callable[[], np.ndarray], folder: Path, pids: Callable[[], list[int]], kills: int
) -> Any:
    """What the work gives, and how many workers were killed meanwhile, each after another slice was there."""
    done, count = threading.Event(), [0]

    def kill() -> None:
        seen = 0
        while count[0] < kills and not done.wait(0.02):
            there = len(list(folder.glob("effects-*.zarr")))
            if there > seen and (alive := pids()):
                seen = there
                os.kill(alive[0], signal.SIGKILL)
                count[0] += 1

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        return work(), count[0]
    finally:
        done.set()
        thread.join()


def on_dask(run: ik.Trajectory, examples: int, folder: Path) -> tuple[np.ndarray, int]:
    """Three worker processes of a dask cluster, two of which are killed."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        workers = ik.Workers(client.get_executor(pure=False, retries=3), folder)
        first = sorted(worker.pid for worker in cluster.workers.values())[:2]
        left = iter(first)
        return killed_while(
            lambda: scores(run, examples, executor=workers), folder, lambda: [next(left)], len(first)
        )


@click.option("--workload", default=CNN, show_default=True)
@click.option("--examples", default=16, help="Left out, one at a time.")
@click.option("--rounds", default=2)
@click.option("--kills", default=3, help="Of workers of a pool, one after another.")
def answer(workload: str, examples: int, rounds: int, kills: int) -> dict:
    torch.set_num_threads(1)
    spent: dict[str, list[float]] = {"here": [], "1 worker": [], "2 workers": []}
    load, started, same = [], [], True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training, run = seconds_of(
            lambda: ik.record(ik.make("workload", workload), store=folder / "run.zarr")
        )
        scores(run, 2)  # traces
        truth = None
        for number in range(rounds):
            load.append(os.getloadavg()[0])
            took, found = seconds_of(lambda: scores(run, examples))
            spent["here"].append(took)
            truth = found if truth is None else truth
            same &= bool(np.array_equal(found, truth, equal_nan=True))
            for count in (1, 2):
                with Processes(count) as pool:
                    warm = folder / f"warm-{number}-{count}"
                    began, _ = seconds_of(
                        lambda warm=warm, pool=pool: scores(run, 4 * 2, 1, ik.Workers(pool, warm))
                    )
                    started.append(began)
                    fresh = folder / f"slices-{number}-{count}"
                    took, found = seconds_of(
                        lambda fresh=fresh, pool=pool: scores(run, examples, 0, ik.Workers(pool, fresh))
                    )
                spent[f"{count} worker{'s' if count > 1 else ''}"].append(took)
                same &= bool(np.array_equal(found, truth, equal_nan=True))
        print(spent, load, flush=True)
        lost = folder / "killed"
        with Processes(2) as pool:
            found, killed = killed_while(
                lambda: scores(run, examples, 0, ik.Workers(pool, lost)), lost,
                lambda: [child.pid for child in pool._ours if child.is_alive() and child.pid], kills,
            )  # fmt: skip
        survived = {"pool": {"kills": killed, "same": bool(np.array_equal(found, truth, equal_nan=True))}}
        found, killed = on_dask(run, examples, folder / "dask")
        survived["dask"] = {"kills": killed, "same": bool(np.array_equal(found, truth, equal_nan=True))}
    ratios = {
        name: float(np.median(np.array(spent["here"]) / np.array(each))) for name, each in spent.items()
    }
    return {
        "workload": workload, "examples": examples, "training seconds": training, "seconds": spent,
        "speed": ratios, "load of the machine": load, "until workers are begun, seconds": started,
        "same bits": same, "survived": survived,
    }  # fmt: skip


def wrong(report: dict) -> list[str]:
    found = [] if report["same bits"] else ["workers give other bits than one process"]
    for name, row in report["survived"].items():
        found += [] if row["same"] else [f"{name}: other bits after {row['kills']} kills"]
        found += [] if row["kills"] else [f"{name}: nothing was killed"]
    return found
