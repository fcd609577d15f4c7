"""Two classes of CIFAR-10 and a small CNN, of a file that is not bundled."""

from pathlib import Path

import click
import numpy as np
import torch
from torch import nn

import influencekit as ik
from benchmarks.wrong_labels_cnn import images, network


def photographs(data: Path | None, seed: int, **sizes: int) -> ik.Workload:
    """Eight epochs of Adam on images drawn by `seed`; `sizes`: how many of `train`, `validation`, `test`."""
    if data is None:
        raise click.UsageError("cifar needs --data, an .npz file of images; or leave it out by --only")
    with np.load(data) as file:
        x, y = images(file["x_train"]), torch.from_numpy(file["y_train"]).long()
    torch.manual_seed(seed)
    parts = torch.randperm(len(y))[: sum(sizes.values())].split(list(sizes.values()))
    return ik.Workload(
        model=network(), loss=nn.CrossEntropyLoss(reduction="none"), optimizer=ik.Adam(lr=1e-3), epochs=8,
        batch_size=32, seed=seed, name="cifar",
        **{name: (x[rows], y[rows]) for name, rows in zip(sizes, parts, strict=True)},
    )  # fmt: skip
