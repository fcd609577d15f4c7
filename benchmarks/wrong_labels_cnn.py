"""Does influence find wrong labels of photographs better than their loss does? A small CNN.

The file is not bundled: arrays x_train, y_train, x_test, y_test of two classes of CIFAR-10, 32 x 32 pixels.
1,000 training images, 100 of them with the other label; 500 clean images for the query `test-loss`; the
file's own test images for the accuracy. One run a seed, looked at after several numbers of epochs: how many
of the 100 are among the 100 most suspicious, by `dit` (the most harmful) and by the loss of each training
image.
"""

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn

import influencekit as ik

TAKES = "3 min"
QUICK = {"seeds": 1, "epochs": (1, 2)}
TRAIN, TRUSTED, WRONG = 1000, 500, 100
EPOCHS = (3, 5, 8, 12, 20)
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


def one(data: dict[str, np.ndarray], seed: int, epochs: tuple[int, ...]) -> dict[str, Any]:
    """A draw of images, flips and initial weights: by epochs, test accuracy and what each score found."""
    torch.manual_seed(seed)
    drawn = torch.randperm(len(data["y_train"]))
    x, y = images(data["x_train"])[drawn], torch.from_numpy(data["y_train"]).long()[drawn]
    wrong = torch.zeros(TRAIN, dtype=torch.bool)
    wrong[torch.randperm(TRAIN)[:WRONG]] = True
    given = torch.where(wrong, 1 - y[:TRAIN], y[:TRAIN])
    trusted = (x[TRAIN : TRAIN + TRUSTED], y[TRAIN : TRAIN + TRUSTED])
    problem = ik.Workload(
        model=network(), loss=nn.CrossEntropyLoss(reduction="none"), train=(x[:TRAIN], given), test=trusted,
        optimizer=ik.Adam(lr=LR), epochs=max(epochs), batch_size=BATCH, seed=seed,
    )  # fmt: skip
    run = ik.record(problem)
    ends = [n * -(-TRAIN // BATCH) for n in epochs]
    influence = ik.estimate(run, "test-loss", "dit", windows=[ik.Window(0, end) for end in ends]).influence
    test = (images(data["x_test"]), torch.from_numpy(data["y_test"]).long())
    rows = {}
    for window, (n, end) in enumerate(zip(epochs, ends, strict=True)):
        theta = run.state(end).theta
        suspicion = {
            "dit": -torch.from_numpy(influence.values[0, window]),
            "final training loss": problem.losses(theta, problem.train).detach(),
        }
        found = {name: int(wrong[values.topk(WRONG).indices].sum()) for name, values in suspicion.items()}
        rows[str(n)] = {"accuracy": problem.accuracy(theta, test), "found": found}
    return rows


@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="The .npz file.")
@click.option("--seeds", default=3)
def answer(data: Path, seeds: int, epochs: tuple[int, ...] = EPOCHS) -> dict:
    with np.load(data) as file:
        arrays = dict(file)
    cells = [one(arrays, seed, epochs) for seed in range(seeds)]
    return {
        "command": f"python -m benchmarks wrong_labels_cnn --data {data.name}",
        "setting": f"{TRAIN} images, {WRONG} wrong labels, Adam, lr {LR:g}, batches of {BATCH}",
        "seeds": seeds,
        "epochs": {
            name: {
                "accuracy": float(np.mean([each[name]["accuracy"] for each in cells])),
                "found": {
                    score: float(np.mean([each[name]["found"][score] for each in cells]))
                    for score in row["found"]
                },
            }
            for name, row in cells[0].items()
        },
        "cells": cells,
    }
