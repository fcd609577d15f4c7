"""What does collecting projected gradients cost a training loop? The same steps with and without.

A plain PyTorch loop over a workload's batches, one thread; every step is done once by the loop alone and
once by a copy of it with a `Collector`, which writes to disk. Overhead: the ratio of the medians, and of the
tenth percentiles, which are the steps that other processes on the machine disturbed least; the ratio of all
processor time holds the writing, too.
"""

from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from influencekit_dvemb import Collector
from numpy import quantile
from torch import nn

import influencekit as ik
from benchmarks.shared.results import each
from benchmarks.shared.timing import side_by_side

TAKES = "2 min"
CASES = ("mnist-1v7-cnn", "mnist-1v7-dnn", "mnist-1v7-lr")
QUICK = {"steps": 10, "cases": ["mnist-1v7-lr"]}
DIMS = (1024, 512, 256)
WARM_UP = 5  # steps


def loop(
    workload: ik.Workload, model: nn.Module, optimizer: torch.optim.Optimizer, collect: Collector | None
) -> Iterator[None]:
    """Ordinary training, a step each time."""
    (x, y), criterion, t = workload.train, nn.BCEWithLogitsLoss(), 0
    while True:
        rows = workload.plan.batch(t % workload.plan.steps)
        batch = x[rows], y[rows]
        optimizer.zero_grad()
        criterion(model(batch[0]), batch[1]).backward()
        if collect is not None:
            collect.step(rows)
        optimizer.step()
        yield
        t += 1


def measure(name: str, dim: int, steps: int) -> dict:
    """Milliseconds a step of both loops, and their ratios."""
    workload = ik.make("workload", name, setting="trained")
    models = [deepcopy(workload.model) for _ in range(2)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=workload.optimizer.lr) for m in models]
    # a penalty is no matter of hooks; the loops go without
    options = {"examples": workload.n_train, "slots": workload.batch_size, "dim": dim, "l2": 0.0}
    with TemporaryDirectory() as folder:
        with Collector(Path(folder) / "run.zarr", models[1], optimizers[1], **options) as collect:
            both = zip(models, optimizers, (None, collect), strict=True)
            loops = [loop(workload, *each) for each in both]
            jobs = {name: partial(next, one) for name, one in zip(("plain", "collected"), loops, strict=True)}
            times = side_by_side(jobs, steps)
            features = collect.projection.features
    same = all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))
    wall, cpu = ([clock[job][WARM_UP:] for job in jobs] for clock in (times.wall, times.cpu))
    median, tenth = ([quantile(x, p) for x in wall] for p in (0.5, 0.1))
    return {
        "features": features,
        "parameters": workload.n_params,
        "plain_ms": 1e3 * tenth[0],
        "collected_ms": 1e3 * tenth[1],
        "ratio": tenth[1] / tenth[0],
        "ratio_of_medians": median[1] / median[0],
        "ratio_of_processor_time": sum(cpu[1]) / sum(cpu[0]),
        "same_parameters_bitwise": same,
    }


@click.option("--steps", default=400)
def answer(steps: int, cases: list[str]) -> dict:
    found = each(cases, lambda name: {str(dim): measure(name, dim, steps) for dim in DIMS})
    return {"threads": 1, "steps": steps, "workloads": found}
