"""MNIST, ones against sevens: the paper's image problem. All of it is bundled."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from influencekit.workloads.draw import Part, Pool, by_example
from influencekit.workloads.files import bundled, check_images, find, read_npz
from influencekit.workloads.problem import Setting, problem

__all__ = ["mnist_1v7_cnn", "mnist_1v7_dnn", "mnist_1v7_lr"]

FILE = Path(__file__).parent / "data" / "mnist-1v7.npz"


@lru_cache(maxsize=2)
def pool(data_dir: str | None = None) -> Pool:
    """MNIST digit 1 (class 0) against 7 (class 1), 28 x 28, each image standardised by itself."""
    if data_dir is None:
        path = bundled(FILE)
        i_train, i_test = read_npz(path, "index_train", "index_test")
    else:
        (path,) = find(data_dir, ("mnist.npz",), what="MNIST")
    x_train, y_train, x_test, y_test = read_npz(path, "x_train", "y_train", "x_test", "y_test")
    if data_dir is not None:
        check_images(path, x_train, y_train)
        check_images(path, x_test, y_test)
        i_train, i_test = np.arange(len(y_train)), np.arange(len(y_test))
    return Pool(
        train=_part(x_train, y_train, i_train),
        test=_part(x_test, y_test, i_test),
        scale=by_example,
        classes=("1", "7"),
        title="MNIST 1 against 7",
        licence="MIT as packaged; the original commonly given as CC BY-SA 3.0",
        source="bundled" if data_dir is None else "data_dir",
    )


def _part(x: np.ndarray, y: np.ndarray, index: np.ndarray) -> Part:
    rows = np.flatnonzero((y == 1) | (y == 7))
    return Part(x[rows][:, None], y[rows] == 7, index[rows].tolist())


mnist_1v7_lr = problem("mnist-1v7-lr", pool, paper=Setting(0.003), trained=Setting(0.02, epochs=42))
mnist_1v7_dnn = problem(
    "mnist-1v7-dnn",
    pool,
    paper=Setting(0.0005, decay=False, l2=0.001),
    trained=Setting(0.02, epochs=42, decay=False, l2=0.001),
)
mnist_1v7_cnn = problem(
    "mnist-1v7-cnn",
    pool,
    paper=Setting(0.0004, decay=False, l2=0.001),
    trained=Setting(0.02, epochs=42, decay=False, l2=0.001),
)
