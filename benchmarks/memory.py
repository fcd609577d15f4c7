"""Memory, disk and time of recorders on long runs, and what reduced precision costs in agreement.

    python benchmarks/memory.py      # writes results/memory.json; about ten minutes on one core
    python benchmarks/memory.py --only memory      # one part anew

1. mnist-1v7-dnn, 20,000 steps under `revolve:states=64` and others: time of a sweep as a ratio to training
   over the same steps, everything timed in turn in one process; scores against those of `full`.
2. Whether `revolve` gives the bits of `full` on that run.
3. Peak memory of recording and of the sweep, each in a process of its own, of 2,000 and of 20,000 steps.
4. `rounded` at several numbers of bits: scores and agreement with leave-one-out beside `full`'s, and disk.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from machine import machine
from speed import plain

import influencekit as ik
from influencekit.metrics import agreement
from influencekit.training.state import State
from influencekit.trajectory.binomial_schedule import evaluations
from influencekit.trajectory.trajectory import Trajectory

RESULTS = Path(__file__).parent / "results"
LONG, SHORT = 20_000, 2_000  # steps
LIMIT = 4.0  # what a sweep may cost, in trainings
RECORDERS = ("revolve:states=64", "every-k:k=313", "full")  # 20,000 / 313: as many states as revolve
BITS = (23, 15, 10, 7, 4)


def long_run(steps: int) -> ik.Workload:
    """mnist-1v7-dnn in the trained setting, of so many steps (4 an epoch)."""
    return ik.make("workload", "mnist-1v7-dnn", setting="trained", epochs=steps // 4)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def disk(store: Path) -> float:
    """MB of all files of a store."""
    return sum(file.stat().st_size for file in store.rglob("*") if file.is_file()) / 1e6


# 1 and 2: time, bits --------------------------------------------------------------------------------------


def timed(steps: int, rounds: int) -> dict:
    workload = long_run(steps)
    with TemporaryDirectory() as folder:
        runs: dict[str, Trajectory] = {}
        for name in RECORDERS:
            run = ik.record(
                workload, name, Path(folder) / name, step=next(iter(runs.values())).step if runs else None
            )
            runs[name] = run
        scores = {name: ik.estimate(run).influence.values.copy() for name, run in runs.items()}
        first = next(iter(runs.values()))
        jobs: dict[str, Callable[[], object]] = {
            "plain PyTorch": lambda: plain(workload),
            "record in memory": lambda: ik.record(workload, RECORDERS[0], step=first.step),
            **{name: lambda run=run: ik.estimate(run) for name, run in runs.items()},
        }
        times = defaultdict(list)
        for _ in range(rounds):
            for job, work in jobs.items():
                times[job].append(seconds(work))
        sizes = {name: disk(Path(folder) / name) for name in RECORDERS}
    rows = {}
    for name, run in runs.items():
        largest = abs(scores["full"]).max()
        rows[name] = {
            "states_stored": len(run.stored_states),
            "disk_mb": sizes[name],
            "steps_replayed": replayed(run),
            "sweep_seconds": statistics.median(times[name]),
            "ratio_to_record_in_memory": ratio(times[name], times["record in memory"]),
            "ratio_to_plain_pytorch": ratio(times[name], times["plain PyTorch"]),
            "largest_difference_from_full": float(abs(scores[name] - scores["full"]).max() / largest),
            "spearman_with_full": spearman(scores[name], scores["full"]),
            "scores_bitwise_as_full": bool((scores[name] == scores["full"]).all()),
        }
    return {
        "steps": steps,
        "parameters": workload.n_params,
        "rounds": rounds,
        "seconds": {job: statistics.median(times[job]) for job in ("plain PyTorch", "record in memory")},
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


def ratio(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    found = agreement(torch.tensor(a.reshape(1, -1)), torch.tensor(b.reshape(1, -1)))
    return float(found.flatten()[list(ik.metrics.METRICS).index("spearman")])


# 3: memory ----------------------------------------------------------------------------------------------


def status(name: str) -> float:
    """MB of this process: VmRSS now, VmHWM at most so far (of its own, not of the process that began it)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def phase(what: str, recorder: str, steps: int, store: str) -> dict:
    """Record or sweep in this process; what it had before, and the most it had."""
    workload = long_run(steps)
    if what == "record":
        step = ik.record(long_run(8), "full").step  # whatever is loaded and traced once
        del step
        before = status("VmRSS")
        ik.record(workload, recorder, store)
    else:
        run = ik.open(store, workload)
        before = status("VmRSS")
        ik.estimate(run)
    return {"before_mb": before, "peak_mb": status("VmHWM")}


def peaks(steps: int) -> dict:
    rows = {}
    for recorder in RECORDERS:
        with TemporaryDirectory() as folder:
            store = str(Path(folder) / "run.zarr")
            rows[recorder] = {}
            for what in ("record", "sweep"):
                command = [sys.executable, __file__, "--phase", what, recorder, str(steps), store]
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
                rows[recorder][what] = json.loads(done.stdout.splitlines()[-1])
            rows[recorder]["disk_mb"] = disk(Path(store))
    return rows


# 4: reduced precision -----------------------------------------------------------------------------------


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
                size = sum(f.stat().st_size for f in (store / "theta" / "c").rglob("*") if f.is_file())
                row = found[recorder]
                row["relative_error"].append(float(np.linalg.norm(scores - exact) / np.linalg.norm(exact)))
                row["spearman_with_full"].append(spearman(scores, exact))
                row["spearman_with_loo"].append(spearman(scores, loo))
                row["bits_a_number"].append(8 * size / np.prod(run.group["theta"].shape))
    return {
        "seeds": seeds,
        "steps": full.steps,
        "parameters": workload.n_params,
        "recorders": {r: {k: statistics.mean(v) for k, v in row.items()} for r, row in found.items()},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--long", type=int, default=LONG, help="steps of the long run")
    parser.add_argument("--only", choices=("time", "exact", "memory", "precision"), help="measure this again")
    parser.add_argument("--phase", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.phase:
        what, recorder, steps, store = arguments.phase
        print(json.dumps(phase(what, recorder, int(steps), store)))
        raise SystemExit
    parts: dict[str, Callable[[], dict]] = {
        "time": lambda: timed(arguments.long, arguments.rounds),
        "exact": lambda: exact(arguments.long),
        "memory": lambda: {str(steps): peaks(steps) for steps in (arguments.long // 10, arguments.long)},
        "precision": lambda: {
            name: precision(name, arguments.seeds) for name in ("mnist-1v7-dnn", "mnist-1v7-lr")
        },
    }
    path = RESULTS / "memory.json"
    report = json.loads(path.read_text()) if arguments.only else {}
    report |= {"command": "python benchmarks/memory.py", "machine": machine(), "threads": 1}
    for part in [arguments.only] if arguments.only else parts:
        report[part] = parts[part]()
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
