"""Wrong labels of photographs, a small CNN: sorting by loss beside influence.

    python benchmarks/wrong_labels_cnn.py cifar10-airplane-bird.npz     # writes results/wrong_labels_cnn.json

The file is not bundled: arrays x_train, y_train, x_test, y_test of two classes of CIFAR-10, 32 x 32 pixels,
uint8. 1,000 training images, 100 of them with the other label; 500 clean images for the query `test-loss`;
the file's own test images for the accuracy. Reported, after each number of epochs: how many of the 100 are
among the 100 most suspicious by `dit` (the most harmful) and by the loss of each training image.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from torch import Tensor, nn

import influencekit as ik

RESULTS = Path(__file__).parent / "results" / "wrong_labels_cnn.json"
TRAIN, TRUSTED, WRONG = 1000, 500, 100
EPOCHS = (3, 5, 8, 12, 20)  # one run a seed, looked at after so many
LR, BATCH = 1e-3, 32


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 8 * 8, 64), nn.ReLU(), nn.Linear(64, 2),
    )  # fmt: skip


def images(array: np.ndarray) -> Tensor:
    """[n, 3, 32, 32], each channel of mean about 0 and deviation about 1."""
    return (torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255 - 0.47) / 0.25


def cell(data: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    """One draw of images, flips and initial weights: test accuracy, and what each score found."""
    torch.manual_seed(seed)
    drawn = torch.randperm(len(data["y_train"]))
    x, y = images(data["x_train"])[drawn], torch.from_numpy(data["y_train"]).long()[drawn]
    wrong = torch.zeros(TRAIN, dtype=torch.bool)
    wrong[torch.randperm(TRAIN)[:WRONG]] = True
    given = torch.where(wrong, 1 - y[:TRAIN], y[:TRAIN])
    trusted = (x[TRAIN : TRAIN + TRUSTED], y[TRAIN : TRAIN + TRUSTED])
    problem = ik.Workload(
        model=network(), loss=nn.CrossEntropyLoss(reduction="none"), train=(x[:TRAIN], given), test=trusted,
        optimizer=ik.Adam(lr=LR), epochs=max(EPOCHS), batch_size=BATCH, seed=seed,
    )  # fmt: skip
    run = ik.record(problem)
    ends = {epochs: epochs * -(-TRAIN // BATCH) for epochs in EPOCHS}
    influence = ik.estimate(run, "test-loss", "dit", windows=[ik.Window(0, end) for end in ends.values()])
    test = (images(data["x_test"]), torch.from_numpy(data["y_test"]).long())
    rows = {}
    for window, (epochs, end) in enumerate(ends.items()):
        theta = run.state(end).theta
        suspicion = {
            "dit": -influence.influence.values[0, window],
            "final training loss": problem.losses(theta, problem.train).detach().numpy(),
        }
        found = {
            name: int(wrong[torch.from_numpy(values.copy()).topk(WRONG).indices].sum())
            for name, values in suspicion.items()
        }
        rows[str(epochs)] = {"accuracy": problem.accuracy(theta, test), "found": found}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(options.data) as file:
        data = dict(file)
    cells = []
    for seed in range(options.seeds):
        cells.append(cell(data, seed))
        print(seed, cells[-1], flush=True)
    report = {
        "command": f"python benchmarks/wrong_labels_cnn.py {options.data.name}",
        "machine": machine(),
        "setting": f"{TRAIN} images, {WRONG} wrong labels, Adam, lr {LR:g}, batches of {BATCH}",
        "seeds": options.seeds,
        "epochs": {
            name: {
                "accuracy": float(np.mean([each[name]["accuracy"] for each in cells])),
                "found": {
                    score: float(np.mean([each[name]["found"][score] for each in cells]))
                    for score in rows["found"]
                },
            }
            for name, rows in cells[0].items()
        },
        "cells": cells,
    }
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
