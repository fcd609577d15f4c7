"""What does a sweep cost beside training, in time and peak memory, when all of MiniLM is trained?

`sgd` and `adamw` train on batches of 16; `large` and `blocks` by SGD on two batches of 128, where
intermediate results are most of the memory, `blocks` with the encoder's layers checkpointed, in training and
sweep.

Peaks are those of resident memory of processes of their own: one trains, by a plain loop; another opens the
recorded run (`full`) and sweeps twice. The first sweep has its checks in it, on a copy of the model in
float64. Times are seconds of the processor, of loop and sweep in turn in one process; the query's gradient,
of so many test texts, is in the sweep's and by itself.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch

import influencekit as ik
from benchmarks.minilm.case import BATCH, TOKENS, case
from benchmarks.shared.processes import alone, count_the_peak_from_here, memory
from benchmarks.shared.results import each
from influencekit._training.checks.model import copy_model
from influencekit._training.schedules import Constant

TAKES = "15 min"
CASES = ("sgd", "adamw", "large", "blocks")
MERGES = True
RULES = {ik.SGD: torch.optim.SGD, ik.AdamW: torch.optim.AdamW}
LARGE, TESTS = 128, 64


def workload(name: str, steps: int) -> ik.Workload:
    """The first steps of the problem of seed 0, and a few test texts."""
    optimizer = "adamw" if name == "adamw" else "sgd"
    found = case(optimizer, 1e-4 if name == "adamw" else 0.1, 0).workload
    test = {key: x[:TESTS] for key, x in found.test.items()}
    order = found.plan.indices[:steps]
    if name in ("large", "blocks"):
        order = found.plan.indices.reshape(-1, LARGE)[:2]
    if name == "blocks":
        found.model.encoder.gradient_checkpointing_enable()
        found.model.train()
        for module in found.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    return replace(found, order=order, epochs=1, schedule=Constant(), test=test, validation=None)


def train(work: ik.Workload) -> None:
    """The loop, as anybody writes it."""
    model = copy_model(work.model)
    rule = RULES[type(work.optimizer)](model.parameters(), lr=work.optimizer.lr)
    for t in range(work.plan.steps):
        batch = {name: x[work.plan.batch(t)] for name, x in work.train.items()}
        outputs = model(batch["input_ids"], batch["attention_mask"])
        rule.zero_grad()
        work.loss(outputs, batch["labels"]).mean().backward()
        rule.step()


def cost(job: Callable[[], object]) -> dict[str, float]:
    """Seconds of the processor, and the peak of resident memory in MB while a job runs."""
    count_the_peak_from_here()
    began = time.process_time()
    job()
    return {"seconds": time.process_time() - began, "peak_mb": memory("VmHWM")}


def training(name: str, steps: int) -> dict[str, float]:
    """A process that trains."""
    torch.set_num_threads(1)
    work = workload(name, steps)
    return cost(lambda: train(work))


def sweeping(name: str, steps: int, rounds: int, store: str) -> dict:
    """A process that sweeps; then the loop and the sweep in turn."""
    torch.set_num_threads(1)
    work = workload(name, steps)
    run, query = ik.open(store, work), ik.make("query", "test-loss")
    jobs = {
        "sweep": lambda: ik.estimate(run, query, "dit"),
        "query": lambda: query.gradient(run.workload, run.final.theta),
        "loop": lambda: train(work),
    }
    first = cost(jobs["sweep"])
    found = [{key: cost(job) for key, job in jobs.items()} for _ in range(rounds)]
    return {
        "first sweep": first,
        "parameters": work.n_params,
        "times a loop": statistics.median(one["sweep"]["seconds"] / one["loop"]["seconds"] for one in found),
        "without the query": statistics.median(
            (one["sweep"]["seconds"] - one["query"]["seconds"]) / one["loop"]["seconds"] for one in found
        ),
        **{job: {k: min(one[job][k] for one in found) for k in ("seconds", "peak_mb")} for job in jobs},
    }


def measured(name: str, steps: int, rounds: int) -> dict:
    with TemporaryDirectory() as folder:
        store = str(Path(folder) / "run.zarr")
        ik.record(workload(name, steps), "full", store)
        found = alone(sweeping, name, steps, rounds, store)
    trained = alone(training, name, steps)
    peaks = {one: found[one]["peak_mb"] / trained["peak_mb"] for one in ("first sweep", "sweep")}
    return {**found, "training": trained, "peaks beside training": peaks}


@click.option("--steps", default=8)
@click.option("--rounds", default=3)
def answer(steps: int, rounds: int, cases: list[str]) -> dict:
    about = {"steps": steps, "rounds": rounds, "batch": BATCH, "large": LARGE, "tokens": TOKENS}
    return about | {"tests": TESTS, "cases": each(cases, lambda name: measured(name, steps, rounds))}
