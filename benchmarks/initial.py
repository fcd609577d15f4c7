"""Does Table V depend on initial weights, which the paper does not print?

Table V's runs at 10 % flipped labels, in the setting `paper`, from PyTorch's own initial weights and from
others: of how many labels are among the most negative scores of full DIT and of its last epoch.
"""

from dataclasses import replace

import click
import numpy as np
import torch
from influencekit_paper.reproduce.experiments import EXPERIMENTS
from torch import nn

import influencekit as ik

TAKES = "10 min"
SEEDS = {"mnist-1v7-dnn:setting=paper": 16, "mnist-1v7-cnn:setting=paper": 6}
CASES = tuple(SEEDS)
QUICK = {"seeds": 1, "cases": CASES[:1]}
FLIPPED = 0.1
NAMES = ("accuracy", "full", "last global", "last window", "last occurrence")
STARTS = ("torch", "xavier", "kaiming")


def started(problem: ik.Workload, start: str, seed: int) -> ik.Workload:
    """The problem from other initial weights; biases are then 0."""
    problem = replace(problem)  # with a model of its own
    if start == "torch":
        return problem
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), torch.random.fork_rng():
        for module in problem.model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                if start == "xavier":
                    nn.init.xavier_uniform_(module.weight, generator=generator)
                else:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                nn.init.zeros_(module.bias)
    return problem


def one(spec: str, start: str, seed: int) -> list[float]:
    """Accuracy, and labels found by every score."""
    problem = started(ik.make("workload", spec, seed=seed), start, seed)
    found = EXPERIMENTS["detection"].run(problem, seed, flipped=FLIPPED, every_epoch=False, loo=False)
    last = [found["each"][removal][-1]["found"] for removal in ("global", "window", "occurrence")]
    return [found["accuracy"], found["found"]["full"]["found"], *last]


@click.option("--seeds", type=int, help="Default: 16, and 6 for the CNN.")
def answer(seeds: int | None, cases: list[str]) -> dict:
    rows = []
    for spec in cases:
        for start in STARTS:
            count = seeds or SEEDS[spec]
            mean = np.mean([one(spec, start, seed) for seed in range(count)], 0)
            row = {"workload": spec, "start": start, "seeds": count}
            rows.append(row | dict(zip(NAMES, mean.tolist(), strict=True)))
            print(rows[-1], flush=True)
    return {"flipped": FLIPPED, "rows": rows}
