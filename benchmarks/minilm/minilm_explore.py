"""Which ways of ranking find flipped labels? All that were tried on one seed, outside the grid's.

The few of `minilm` were fixed after it.
"""

import time
from pathlib import Path

import click
import torch
from torch import Tensor

from benchmarks.minilm.case import BATCH, Case, about, cached, case
from benchmarks.minilm.run import Run, example_gradients, shares, sweep
from benchmarks.shared.detection import detection
from influencekit._training.batch import select
from influencekit._training.state import State

TAKES = "20 min"
RUN = ("sgd", 0.1, 100)  # optimizer, learning rate, seed
N_TRAIN = 320  # more than in the grid
EVERY = 5  # steps between two states at which all examples are looked at


def queries(run: Run, found: Case, names: set[str]) -> dict[str, tuple[Tensor, int]]:
    """{name: (gradient, the state it is taken at)}"""
    sets = {"validation": found.validation, "test": run.workload.test, "training": run.workload.train}
    asked = {}
    for name in names:
        t = run.plan.steps // 2 if name.endswith("after epoch 0") else run.plan.steps
        texts = sets[name.split()[0]]
        asked[name] = run.model.mean_gradient(run.state(t).theta, texts, margin="margin" in name), t
    return asked


COLUMNS = (
    ("gauss-newton", "validation loss"),
    ("gauss-newton", "validation margin"),
    ("gauss-newton", "training loss"),
    ("gauss-newton", "test loss"),
    ("gauss-newton", "validation margin after epoch 0"),
    ("gauss-newton", "validation loss after epoch 0"),
    ("hessian", "validation loss"),
    ("hessian", "validation margin"),
    ("fisher", "validation loss"),
    ("plain", "validation loss"),
    ("plain", "validation margin"),
)


def explore(optimizer: str, lr: float, seed: int) -> dict:
    """Every way of ranking that was tried, on one run: {name: detection}."""
    found = case(optimizer, lr, seed, n_train=N_TRAIN)
    workload, start = found.workload, time.time()
    run = Run(workload)
    model, plan, y = run.model, run.plan, workload.train["labels"]
    tried: dict[str, Tensor] = {}
    z = model.logits(run.final.theta, workload.train)
    tried["final training loss"] = final = workload.loss(z, y)
    visits = torch.full((plan.steps, N_TRAIN), torch.nan)
    visits.scatter_(1, plan.indices, workload.loss(run.logits, y[plan.indices]))
    epochs = [visits[plan.epoch == e].nanmean(0) for e in range(int(plan.epoch[-1]) + 1)]
    for e, losses in enumerate(epochs):
        tried[f"loss when visited, epoch {e}"] = losses
    tried["loss when visited, mean"] = torch.stack(epochs).mean(0)
    path = [model.logits(run.state(t).theta, workload.train) for t in range(0, plan.steps + 1, EVERY)]
    tried["training loss, mean over the run"] = torch.stack([workload.loss(p, y) for p in path]).mean(0)
    tried["training margin, mean over the run"] = -torch.stack([p * (2 * y - 1) for p in path]).mean(0)

    norm = torch.zeros(N_TRAIN)
    own, own_visit, at_visit = torch.zeros(N_TRAIN), torch.zeros(N_TRAIN), torch.zeros(N_TRAIN)
    for state in run.states():
        rows = plan.batch(state.step)
        batch = select(workload.train, rows)
        g, last = (example_gradients(workload, theta, batch) for theta in (state.theta, run.final.theta))
        scale = torch.tensor(plan.lrs(state.step)[0] / BATCH)
        if optimizer == "adamw":
            v = run._after(state, run.gradients[state.step]).slots["exp_avg_sq"]
            scale = scale / ((v / (1 - 0.999 ** (state.step + 1))).sqrt() + 1e-8)
        norm[rows] = last.norm(dim=1)
        own[rows] += (g * scale * last).sum(1)
        own_visit[rows] += (g * scale * g).sum(1)
        at_visit[rows] += g.norm(dim=1)
    tried["gradient norm"] = norm
    tried["gradient norm when visited, mean"] = at_visit
    tried["self-influence, plain"] = own
    tried["self-influence, plain, at the visits"] = own_visit
    for factor in (0.3, 1.0, 3.0):
        tried[f"final loss + {factor} x plain self-influence"] = final + factor * own
    print(optimizer, lr, "before the sweep", round(time.time() - start), "s", flush=True)

    asked = queries(run, found, {query for _, query in COLUMNS})
    averaged: dict[str, Tensor] = {}

    def watch(name: str, state: State, c: Tensor) -> None:
        if name in ("gauss-newton, validation margin", "gauss-newton, validation loss"):
            if state.step % EVERY == EVERY // 2:
                parts = [
                    shares(workload, state.theta, select(workload.train, rows), c)
                    for rows in torch.arange(N_TRAIN).split(64)
                ]
                averaged[name] = averaged.get(name, torch.zeros(N_TRAIN)) - torch.cat(parts)

    names = {f"{c}, {q}": (c, *asked[q]) for c, q in COLUMNS}
    shared = sweep(run, names, watch)
    for name, contributions in shared.items():
        scores = contributions.sum(0)
        tried[name] = -scores
        tried[f"{name}, over gradient norm"] = -scores / norm
        if "after" not in name:
            for e in range(int(plan.epoch[-1]) + 1):
                tried[f"{name}, window removal in epoch {e}"] = -contributions[plan.epoch == e].sum(0)
    for name, scores in averaged.items():
        tried[f"{name}, over orders"] = -scores
        tried[f"{name}, over orders, over gradient norm"] = -scores / norm
    ranks = {n: s.argsort().argsort().double() for n, s in tried.items()}
    for name in names:
        tried[f"ranks of final loss and of {name}"] = ranks["final training loss"] + ranks[name]
    with torch.no_grad():
        accuracy = workload.accuracy(run.final.theta)
        clean = workload.accuracy(run.final.theta, found.validation)
    return {
        "optimizer": optimizer, "lr": lr, "seed": seed, "warm": None, "accuracy": accuracy,
        "validation": clean, "seconds": time.time() - start,
        "tried": {name: detection(found.flipped, s) for name, s in tried.items()},
        "raw": {name: s.tolist() for name, s in tried.items()}, "flipped": found.flipped.tolist(),
    }  # fmt: skip


@click.option("--work", type=click.Path(path_type=Path), default="minilm-work", help="What is done already.")
def answer(work: Path) -> dict:
    run = cached(work, f"explore-{RUN[0]}-{RUN[1]:g}-None", lambda: explore(*RUN))
    return about(N_TRAIN) | {"runs": [{k: v for k, v in run.items() if k not in ("raw", "flipped")}]}
