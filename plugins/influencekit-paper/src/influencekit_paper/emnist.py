"""EMNIST letters, A against B. It cannot be bundled: data_dir holds the user's own four files from NIST."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from influencekit.errors import InputError
from influencekit.workloads import Part, Pool, Setting, by_example, check_images, find, problem
from influencekit_paper.files import read_idx

__all__ = ["emnist_ab_cnn", "emnist_ab_dnn", "emnist_ab_lr"]

FILES = tuple(
    f"emnist-letters-{split}-{kind}-ubyte.gz"
    for split in ("train", "test")
    for kind in ("images-idx3", "labels-idx1")
)
STAND_IN = (
    "; EMNIST is not bundled (get it from NIST), its bundled stand-in is kmnist-lr, kmnist-dnn, kmnist-cnn"
)


@lru_cache(maxsize=2)
def pool(data_dir: str | None = None) -> Pool:
    """EMNIST letter A (class 0) against B (class 1), 28 x 28, each image standardised by itself."""
    if data_dir is None:
        raise InputError(f"EMNIST needs data_dir, a folder with {', '.join(FILES)}{STAND_IN}")
    paths = find(data_dir, FILES, what="EMNIST", hint=STAND_IN)
    return Pool(
        train=_part(paths[0], paths[1]),
        test=_part(paths[2], paths[3]),
        scale=by_example,
        classes=("A", "B"),
        title="EMNIST A against B",
        licence="your own copy: see the terms of NIST",
        source="data_dir",
    )


def _part(images: Path, labels: Path) -> Part:
    x, y = read_idx(images), read_idx(labels)
    check_images(images, x, y)
    rows = np.flatnonzero((y == 1) | (y == 2))  # letters are numbered from 1, both cases together
    upright = x[rows].transpose(0, 2, 1)  # the files hold the images transposed
    return Part(np.ascontiguousarray(upright)[:, None], y[rows] == 2, rows.tolist())


emnist_ab_lr = problem("emnist-ab-lr", pool, paper=Setting(0.003), trained=Setting(0.05))
emnist_ab_dnn = problem(
    "emnist-ab-dnn", pool, paper=Setting(0.06, l2=0.001), trained=Setting(0.2, epochs=42, l2=0.001)
)
emnist_ab_cnn = problem(
    "emnist-ab-cnn", pool, paper=Setting(0.2, l2=0.001), trained=Setting(0.5, epochs=42, l2=0.001)
)
