"""Flipped labels in a taped run: who finds them? The loop of docs/mislabelled.md, on two data sets, 16 seeds.

    python benchmarks/mislabelled.py            # writes results/mislabelled.json

10 % of the training labels are flipped. Scores: DIT on the mean loss of clean validation examples, over the
whole run and over its last epoch (removal `window`), and, as what anybody can compute, the loss of each
training example at the end. AUC, and how many of the k most suspicious are flipped, k = the number of flips.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from machine import machine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

RESULTS = Path(__file__).parent / "results" / "mislabelled.json"
WORKLOADS = ("20news-dnn", "mnist-1v7-dnn")
EPOCHS, LR, BATCH, HIDDEN = 10, 1e-3, 32, 32


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, HIDDEN), nn.GELU(), nn.Dropout(0.1), nn.Linear(HIDDEN, 2))


def auc(suspicion: Tensor, flipped: Tensor) -> float:
    """Probability that a flipped example is more suspicious than another, ties half."""
    pairs = suspicion[flipped][:, None] - suspicion[~flipped][None]
    return float((pairs > 0).double().mean() + 0.5 * (pairs == 0).double().mean())


def cell(name: str, seed: int) -> dict[str, Any]:
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
        for _ in range(EPOCHS):
            for _, (inputs, target) in tape.batches(loader):
                optimizer.zero_grad()
                per_example(model(inputs), target).mean().backward()
                optimizer.step()
    run = tape.trajectory(test=(vx, vy))
    last = f"epoch:{EPOCHS - 1}"
    scores = {
        "DIT, whole run": -ik.estimate(run, "test-loss", "dit").influence.values.ravel(),
        "DIT, last epoch": -ik.estimate(
            run, "test-loss", "dit", windows=last, removal="window"
        ).influence.values.ravel(),
        "final training loss": run.workload.losses(run.final.theta, data.tensors).detach().numpy(),
    }
    k = int(flipped.sum())
    found = {}
    for method, values in scores.items():
        suspicion = torch.from_numpy(values.copy()).double()
        hits = int(flipped[suspicion.topk(k).indices].sum())
        found[method] = {"auc": auc(suspicion, flipped), "found": hits / k}
    accuracy = run.workload.accuracy(run.final.theta, (tx, ty))
    return {"accuracy": accuracy, "flipped": k, "scores": found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "command": "python benchmarks/mislabelled.py",
        "machine": machine(),
        "seeds": options.seeds,
        "workloads": {},
    }
    for name in WORKLOADS:
        cells = [cell(name, seed) for seed in range(options.seeds)]
        rows = {}
        for method in cells[0]["scores"]:
            for figure in ("auc", "found"):
                values = torch.tensor([c["scores"][method][figure] for c in cells])
                rows.setdefault(method, {})[figure] = {
                    "mean": values.mean().item(),
                    "sd": values.std().item(),
                }
        accuracy = torch.tensor([c["accuracy"] for c in cells])
        report["workloads"][name] = {
            "accuracy": {"mean": accuracy.mean().item(), "sd": accuracy.std().item()},
            "flipped": cells[0]["flipped"],
            "scores": rows,
            "cells": cells,
        }
        print(
            name, json.dumps({k: v for k, v in report["workloads"][name].items() if k != "cells"}, indent=1)
        )
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
