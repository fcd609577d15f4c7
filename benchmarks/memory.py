"""What do recorders take on long runs, and what does reduced precision cost in agreement?

time: mnist-1v7-dnn, 20,000 steps under `revolve:states=64` and others: time of a sweep as a ratio to
training over the same steps, everything timed in turn in one process; scores against those of `full`.
exact: whether `revolve` gives the bits of `full` on that run.
memory: peak memory of recording and of the sweep, each in a process of its own, of 2,000 and of 20,000
steps.
precision: `rounded` at several numbers of bits: scores and agreement with leave-one-out beside `full`'s,
and disk.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch

import influencekit as ik
from benchmarks.shared.processes import alone, count_the_peak_from_here, memory
from benchmarks.shared.results import each
from benchmarks.shared.timing import side_by_side
from benchmarks.shared.training import train_plainly
from influencekit._training.state import State
from influencekit._trajectory.binomial_schedule import evaluations
from influencekit._trajectory.trajectory import Trajectory
from influencekit.metrics import spearman

TAKES = "10 min"
CASES = ("time", "exact", "memory", "precision")
MERGES = True
QUICK = {"cases": ["time", "exact"], "rounds": 1, "steps": 400}
LIMIT = 4.0  # what a sweep may cost, in trainings
RECORDERS = ("revolve:states=64", "every-k:k=313", "full")  # 20,000 / 313: as many states as revolve
BITS = (23, 15, 10, 7, 4)


def long_run(steps: int) -> ik.Workload:
    """mnist-1v7-dnn in the trained setting, of so many steps (4 an epoch)."""
    return ik.make("workload", "mnist-1v7-dnn", setting="trained", epochs=steps // 4)


def disk(store: Path) -> float:
    """MB of all files of a store."""
    return sum(file.stat().st_size for file in store.rglob("*") if file.is_file()) / 1e6


def timed(steps: int, rounds: int) -> dict:
    workload, runs = long_run(steps), {}
    with TemporaryDirectory() as folder:
        step = None
        for name in RECORDERS:
            runs[name] = ik.record(workload, name, Path(folder) / name, step=step)
            step = runs[name].step
        scores = {name: ik.estimate(run).influence.values.copy() for name, run in runs.items()}
        jobs: dict[str, Callable[[], object]] = {
            "plain PyTorch": lambda: train_plainly(workload),
            "record in memory": lambda: ik.record(workload, RECORDERS[0], step=step),
            **{name: partial(ik.estimate, run) for name, run in runs.items()},
        }
        times = side_by_side(jobs, rounds)
        sizes = {name: disk(Path(folder) / name) for name in RECORDERS}
    rows, full = {}, scores["full"]
    for name, run in runs.items():
        rows[name] = {
            "states_stored": len(run.stored_states),
            "disk_mb": sizes[name],
            "steps_replayed": replayed(run),
            "sweep_seconds": times.median(name),
            "ratio_to_record_in_memory": times.ratio(name, "record in memory"),
            "ratio_to_plain_pytorch": times.ratio(name, "plain PyTorch"),
            "largest_difference_from_full": float(abs(scores[name] - full).max() / abs(full).max()),
            "spearman_with_full": rank_correlation(scores[name], full),
            "scores_bitwise_as_full": bool((scores[name] == full).all()),
        }
    return {
        "steps": steps,
        "parameters": workload.n_params,
        "rounds": rounds,
        "seconds": {job: times.median(job) for job in ("plain PyTorch", "record in memory")},
        "limit": LIMIT,
        "recorders": rows,
    }


def exact(steps: int) -> dict:
    """Whether `revolve` gives the bits of `full`: every state, and the scores of the same lists of states."""
    workload = long_run(steps)
    full = ik.record(workload)
    revolve = ik.record(workload, RECORDERS[0], step=full.step)
    lists = InTheSameLists(full, revolve)
    found = [ik.estimate(run).influence.values for run in (revolve, lists, full)]
    return {
        "steps": steps,
        "states_bitwise": lists.same,
        "scores_bitwise_in_the_same_lists": bool((found[0] == found[1]).all()),
        "largest_difference_in_its_own": float(abs(found[0] - found[2]).max() / abs(found[2]).max()),
    }


class InTheSameLists(Trajectory):
    """A run whose sweep gets the lists of states that another's gets; `same` if the states are the same bits.

    Kernels round as the number of states that they take at once has it, and sums as they are grouped.
    """

    def __init__(self, run: Trajectory, other: Trajectory) -> None:
        super().__init__(run.group, run.workload, run.step)
        self._other, self.same = other, True

    def blocks(self, start: int, stop: int, what: str = "sweep") -> Iterator[list[State]]:
        for block in self._other.blocks(start, stop, what):
            mine = self._states(block[0].step, block[0].step + len(block))
            self.same &= all(torch.equal(a.theta, b.theta) for a, b in zip(mine, block, strict=True))
            yield mine


def replayed(run: Trajectory) -> int:
    """Steps that a sweep over the whole run does again."""
    gaps = [b - a for a, b in zip(run.stored_states, run.stored_states[1:], strict=False)]
    held = run.max_states
    return sum(gap - 1 if held is None else evaluations(gap, held - i) for i, gap in enumerate(gaps))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(spearman(torch.tensor(a.ravel()), torch.tensor(b.ravel())))


def phase(what: str, recorder: str, steps: int, store: str) -> dict:
    """Record or sweep in this process; what it had before, and the most it had."""
    workload = long_run(steps)
    if what == "record":
        ik.record(long_run(8), "full")  # whatever is loaded and traced once
        before = count_the_peak_from_here()
        ik.record(workload, recorder, store)
    else:
        run = ik.open(store, workload)
        before = count_the_peak_from_here()
        ik.estimate(run)
    return {"before_mb": before, "peak_mb": memory("VmHWM")}


def peaks(steps: int) -> dict:
    rows = {}
    for recorder in RECORDERS:
        with TemporaryDirectory() as folder:
            store = Path(folder) / "run.zarr"
            rows[recorder] = {
                what: alone(phase, what, recorder, steps, str(store)) for what in ("record", "sweep")
            }
            rows[recorder]["disk_mb"] = disk(store)
    return rows


def precision(name: str, seeds: int) -> dict:
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(seeds):
        workload = ik.make("workload", name, setting="trained", seed=seed)
        full = ik.record(workload)
        loo = ik.estimate(full, estimator="loo").influence.values
        exact = ik.estimate(full).influence.values
        for recorder in ("full", *(f"rounded:bits={bits}" for bits in BITS)):
            with TemporaryDirectory() as folder:
                store = Path(folder) / "run.zarr"
                run = ik.record(workload, recorder, store, step=full.step)
                scores = ik.estimate(run).influence.values
                row = found[recorder]
                row["relative_error"].append(float(np.linalg.norm(scores - exact) / np.linalg.norm(exact)))
                row["spearman_with_full"].append(rank_correlation(scores, exact))
                row["spearman_with_loo"].append(rank_correlation(scores, loo))
                size = 8e6 * disk(store / "theta" / "c")
                row["bits_a_number"].append(float(size / np.prod(run.group["theta"].shape)))
    return {
        "seeds": seeds,
        "steps": full.steps,
        "parameters": workload.n_params,
        "recorders": {r: {k: statistics.mean(v) for k, v in row.items()} for r, row in found.items()},
    }


@click.option("--rounds", default=3)
@click.option("--seeds", default=4)
@click.option("--steps", default=20_000, help="Of the long run.")
def answer(rounds: int, seeds: int, steps: int, cases: list[str]) -> dict:
    names = ("mnist-1v7-dnn", "mnist-1v7-lr")
    parts: dict[str, Callable[[], dict]] = {
        "time": lambda: timed(steps, rounds),
        "exact": lambda: exact(steps),
        "memory": lambda: {str(count): peaks(count) for count in (steps // 10, steps)},
        "precision": lambda: {name: precision(name, seeds) for name in names},
    }
    return {"threads": 1} | each(cases, lambda part: parts[part]())
