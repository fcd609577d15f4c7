"""Who finds flipped labels in a taped run? As in docs/examples.md, on two data sets.

10 % of the training labels are flipped. Scores: DIT on the mean loss of clean validation examples, over the
whole run and over its last epoch (removal `window`), and, as what anybody can compute, the loss of each
training example at the end. AUC, and how many of the k most suspicious are flipped, k = the number of
flips.
"""

from typing import Any

import click
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik
from benchmarks.shared.detection import detection
from benchmarks.shared.results import each

TAKES = "5 min"
CASES = ("20news-dnn", "mnist-1v7-dnn")
QUICK = {"seeds": 2, "epochs": 1}
EPOCHS, LR, BATCH, HIDDEN = 10, 1e-3, 32, 32


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, HIDDEN), nn.GELU(), nn.Dropout(0.1), nn.Linear(HIDDEN, 2))


def one(name: str, seed: int, epochs: int) -> dict[str, Any]:
    problem = ik.make("workload", name, setting="trained", seed=seed)
    (x, y), (vx, vy), (tx, ty) = (
        (images.flatten(1), labels.long())
        for images, labels in (problem.train, problem.validation, problem.test)
    )
    torch.manual_seed(seed)
    flipped = torch.zeros(len(y), dtype=torch.bool)
    flipped[torch.randperm(len(y))[: len(y) // 10]] = True
    data = TensorDataset(x, torch.where(flipped, 1 - y, y))
    per_example = nn.CrossEntropyLoss(reduction="none")
    model = network(x.shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    loader = DataLoader(data, batch_size=BATCH, shuffle=True)
    with ik.Tape(None, model, optimizer, loss=per_example, data=data, recorder="full") as tape:
        for _ in range(epochs):
            for _, (inputs, target) in tape.batches(loader):
                optimizer.zero_grad()
                per_example(model(inputs), target).mean().backward()
                optimizer.step()
    run = tape.trajectory(test=(vx, vy))
    last = f"epoch:{epochs - 1}"
    scores = {
        "DIT, whole run": -ik.estimate(run, "test-loss", "dit").influence.values.ravel(),
        "DIT, last epoch": -ik.estimate(
            run, "test-loss", "dit", windows=last, removal="window"
        ).influence.values.ravel(),
        "final training loss": run.workload.losses(run.final.theta, data.tensors).detach().numpy(),
    }
    found = {}
    for method, values in scores.items():
        row = detection(flipped, torch.from_numpy(values.copy()))
        found[method] = {"auc": row["auc"], "found": row["found"] / row["k"]}
    accuracy = run.workload.accuracy(run.final.theta, (tx, ty))
    return {"accuracy": accuracy, "flipped": int(flipped.sum()), "scores": found}


def measure(name: str, seeds: int, epochs: int) -> dict[str, Any]:
    cells = [one(name, seed, epochs) for seed in range(seeds)]
    scores = {
        method: {figure: over([c["scores"][method][figure] for c in cells]) for figure in ("auc", "found")}
        for method in cells[0]["scores"]
    }
    accuracy, flipped = over([c["accuracy"] for c in cells]), cells[0]["flipped"]
    return {"accuracy": accuracy, "flipped": flipped, "scores": scores, "cells": cells}


def over(values: list[float]) -> dict[str, float]:
    found = torch.tensor(values)
    return {"mean": found.mean().item(), "sd": found.std().item()}


@click.option("--seeds", default=16)
def answer(seeds: int, cases: list[str], epochs: int = EPOCHS) -> dict:
    return {"seeds": seeds, "workloads": each(cases, lambda name: measure(name, seeds, epochs))}
