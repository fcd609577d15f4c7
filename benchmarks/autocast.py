"""Scores of a run in bfloat16 (`torch.autocast`): do they agree with retraining, and what do they cost?

One loop, in float32 and with its forward pass in bfloat16, and the sweep over each, whose derivatives are of
the same step in float32. `distance`: of the scores of the bfloat16 run from those of the float32 run,
relative to these. `pearson`: of the scores of some random examples with retraining without each of them, in
the run's own precision; `repeated`: the same between retraining in either precision, which is what bfloat16
itself changes. `times_a_loop`: CPU time of a sweep, and of a loop, in turn; the first sweep has its checks in
it and is not counted.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from benchmarks.shared.results import each
from influencekit._training.checks.model import copy_model
from influencekit.metrics import pearson

TAKES = "3 min"
MERGES = True
CASES = ("sgd", "adamw")
RULES = {"sgd": (torch.optim.SGD, {"lr": 0.05}), "adamw": (torch.optim.AdamW, {"lr": 1e-3, "eps": 1e-3})}
PRECISIONS = {"float32": False, "bfloat16": True}
QUICK = {"examples": 4, "epochs": 1, "rounds": 1}


def train(work: ik.Workload, name: str, epochs: int, low: bool, store: str | None) -> None:
    """The loop, as anybody writes it, with a tape where there is a store."""
    torch.manual_seed(0)
    model, data = copy_model(work.model), TensorDataset(*work.train)
    rule, options = RULES[name]
    optimizer = rule(model.parameters(), **options)
    loader = DataLoader(data, batch_size=32, shuffle=True)
    with ik.Tape(store, model, optimizer, loss=work.loss, data=data) if store else nullcontext() as tape:
        for _ in range(epochs):
            for _, (x, y) in tape.batches(loader) if tape else enumerate(loader):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=low):
                    loss = work.loss(model(x), y).mean()
                loss.backward()
                optimizer.step()


def seconds(job: Callable[[], Any]) -> float:
    began = time.process_time()
    job()
    return time.process_time() - began


def measured(name: str, examples: int, epochs: int, rounds: int) -> dict[str, Any]:
    found, scores, retrained = {}, {}, {}
    for precision, low in PRECISIONS.items():
        found[precision], scores[precision], retrained[precision] = one(name, low, examples, epochs, rounds)
    plain, low_ones = retrained.values()
    return {
        **found,
        "distance": _distance(scores["bfloat16"], scores["float32"]),
        "repeated": float(pearson(plain, low_ones)),
        "repeated_distance": _distance(low_ones, plain),
    }


def one(
    name: str, low: bool, examples: int, epochs: int, rounds: int
) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """The figures of one precision, all scores, and the effects of those that were left out."""
    work = ik.make("workload", "mnist-1v7-dnn", setting="trained")
    data, test = TensorDataset(*work.train), TensorDataset(*work.test)
    with TemporaryDirectory() as folder:
        store = str(Path(folder) / "run.zarr")
        train(work, name, epochs, low, store)
        run = ik.open(store, model=copy_model(work.model), loss=work.loss, data=data, test=test)

        def asked(estimator: str) -> torch.Tensor:
            return torch.from_numpy(ik.estimate(run, estimator=estimator).influence.values.ravel())

        scores, retrained = asked("dit"), asked(f"loo:examples={examples}")
        there = retrained.isfinite()
        times = [
            (seconds(lambda: asked("dit")), seconds(lambda: train(work, name, epochs, low, None)))
            for _ in range(rounds)
        ]
    figures = {
        "accuracy": run.attrs["accuracy"],
        "pearson": float(pearson(scores[there], retrained[there])),
        "error": _distance(scores[there], retrained[there]),
        "loop_seconds": min(loop for _, loop in times),
        "times_a_loop": statistics.median(sweep / loop for sweep, loop in times),
    }
    return figures, scores, retrained[there]


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@click.option("--examples", default=64, help="Retrained without each of so many.")
@click.option("--epochs", default=10)
@click.option("--rounds", default=5)
def answer(examples: int, epochs: int, rounds: int, cases: tuple[str, ...] = CASES) -> dict[str, Any]:
    torch.set_num_threads(1)
    about = {"examples": examples, "epochs": epochs, "rounds": rounds}
    return about | {"optimizers": each(cases, lambda name: measured(name, examples, epochs, rounds))}
