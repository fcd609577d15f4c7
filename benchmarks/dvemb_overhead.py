"""What collecting projected gradients costs a training loop: the same steps, with and without, in turn.

    python benchmarks/dvemb_overhead.py            # writes results/dvemb_overhead.json

A plain PyTorch loop over a workload's batches, one thread; every step is done once by the loop alone and
once by a copy of it with a `Collector`, which writes to disk. Overhead: the ratio of the medians, and of the
tenth percentiles, which are the steps that other processes on the machine disturbed least; the ratio of all
processor time holds the writing, too.
"""

import argparse
import json
import sys
import time
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from influencekit_dvemb import Collector
from machine import machine
from numpy import quantile

import influencekit as ik

RESULTS = Path(__file__).parent / "results"
WORKLOADS = ("mnist-1v7-cnn", "mnist-1v7-dnn", "mnist-1v7-lr")
DIMS = (1024, 512, 256)


def measured(name: str, dim: int, steps: int, folder: Path) -> dict:
    """Milliseconds a step of both loops, and their ratios."""
    workload = ik.make("workload", name, setting="trained")
    x, y = workload.train
    lr, l2 = workload.optimizer.lr, 0.0  # a penalty is no matter of hooks; the loops go without
    models = [deepcopy(workload.model) for _ in range(2)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=lr) for m in models]
    criterion = torch.nn.BCEWithLogitsLoss()
    spent: tuple[list[float], list[float]] = ([], [])
    worked: tuple[list[float], list[float]] = ([], [])
    options = {"examples": workload.n_train, "slots": workload.batch_size, "dim": dim, "l2": l2}
    with Collector(folder / f"{name}-{dim}.zarr", models[1], optimizers[1], **options) as collect:
        for t in range(steps):
            rows = workload.plan.batch(t % workload.plan.steps)
            for which in (0, 1) if t % 2 else (1, 0):
                began, busy = time.perf_counter(), time.process_time()
                batch = x[rows], y[rows]
                optimizers[which].zero_grad()
                criterion(models[which](batch[0]), batch[1]).backward()
                if which:
                    collect.step(rows)
                optimizers[which].step()
                worked[which].append(time.process_time() - busy)
                spent[which].append(time.perf_counter() - began)
        features = collect.projection.features
    same = all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))
    plain, collected = (each[5:] for each in spent)  # after a few steps to warm up
    median, tenth = ([quantile(x, p) for x in (plain, collected)] for p in (0.5, 0.1))
    return {
        "features": features,
        "parameters": workload.n_params,
        "plain_ms": 1e3 * tenth[0],
        "collected_ms": 1e3 * tenth[1],
        "ratio": tenth[1] / tenth[0],
        "ratio_of_medians": median[1] / median[0],
        "ratio_of_processor_time": sum(worked[1][5:]) / sum(worked[0][5:]),
        "same_parameters_bitwise": same,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict] = {}
    with TemporaryDirectory() as folder:
        for name in WORKLOADS:
            found[name] = {str(d): measured(name, d, args.steps, Path(folder)) for d in DIMS}
            print(name, json.dumps(found[name], indent=1), flush=True)
    report = {
        "command": "python benchmarks/dvemb_overhead.py " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "threads": 1,
        "steps": args.steps,
        "workloads": found,
    }
    (RESULTS / "dvemb_overhead.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
