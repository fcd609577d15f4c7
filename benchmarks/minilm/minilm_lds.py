"""Do scores of a MiniLM fine-tune predict retraining? On random halves of the training examples.

Learning rate and optimizer are those of the first cell of the question `minilm`, whose scores it takes.
"""

from pathlib import Path

import click
import torch

from benchmarks.minilm.case import N_TRAIN, about, cached, case
from benchmarks.minilm.minilm import RATES, SEEDS, cell, margin, right
from benchmarks.minilm.run import Run
from influencekit.metrics import spearman

TAKES = "30 min"
HALVES = 32


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


def lds(work: Path, optimizer: str, lr: float, seed: int) -> dict:
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


@click.option("--work", type=click.Path(path_type=Path), default="minilm-work", help="What is done already.")
def answer(work: Path) -> dict:
    return about() | {"runs": [lds(work, "sgd", RATES["sgd"][0], SEEDS[0])]}
