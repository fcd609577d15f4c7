"""Kuzushiji-MNIST, hiragana o against ki: the bundled stand-in for EMNIST, with EMNIST's settings."""

from functools import lru_cache

import numpy as np

from influencekit.workloads import Part, Pool, Setting, by_example, check_images, find, problem, read_npz
from influencekit_paper.files import bundled_file

__all__ = ["kmnist_cnn", "kmnist_dnn", "kmnist_lr"]

OFFICIAL = tuple(f"kmnist-{split}-{kind}.npz" for split in ("train", "test") for kind in ("imgs", "labels"))


@lru_cache(maxsize=2)
def pool(data_dir: str | None = None) -> Pool:
    """KMNIST o (class 0) against ki (class 1), 28 x 28, each image standardised by itself."""
    test = None
    if data_dir is None:
        train = _part(*read_npz(bundled_file("kmnist-o-ki.npz"), "x", "y", "index"))
    else:
        paths = find(data_dir, OFFICIAL, ("kmnist-test.npz",), what="KMNIST")
        if len(paths) == 1:
            x, y = read_npz(paths[0], "x", "y")
            check_images(paths[0], x, y)
            train = _part(x, y)
        else:
            x, y, x_test, y_test = (read_npz(path, "arr_0")[0] for path in paths)
            check_images(paths[0], x, y)
            check_images(paths[2], x_test, y_test)
            train, test = _part(x, y), _part(x_test, y_test)
    return Pool(
        train=train,
        test=test,
        scale=by_example,
        classes=("o", "ki"),
        title="KMNIST o against ki",
        licence="CC BY-SA 4.0, KMNIST Dataset (created by CODH)",
        source="bundled" if data_dir is None else "data_dir",
    )


def _part(x: np.ndarray, y: np.ndarray, index: np.ndarray | None = None) -> Part:
    rows = np.flatnonzero(y <= 1)
    ids = rows if index is None else index[rows]
    return Part(x[rows][:, None], y[rows] == 1, ids.tolist())


kmnist_lr = problem("kmnist-lr", pool, paper=Setting(0.003), trained=Setting(0.05))
kmnist_dnn = problem(
    "kmnist-dnn", pool, paper=Setting(0.06, l2=0.001), trained=Setting(0.2, epochs=42, l2=0.001)
)
kmnist_cnn = problem(
    "kmnist-cnn", pool, paper=Setting(0.2, l2=0.001), trained=Setting(0.5, epochs=42, l2=0.001)
)
