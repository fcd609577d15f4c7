"""From a pool of examples to one seed's training, validation and test set."""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from influencekit.errors import InputError

__all__ = ["Draw", "Part", "Pool", "by_example", "draw", "stream"]

Scaler = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Part:
    """Examples with labels 0 or 1 and ids: x [n, ...], y [n], ids [n].

    Example:

        >>> import numpy as np
        >>> from influencekit.workloads import Part
        >>> part = Part(np.zeros((10, 3), np.float32), np.arange(10) % 2 == 1, list("abcdefghij"))
        >>> part.x.shape, len(part.ids)
        ((10, 3), 10)
    """

    x: np.ndarray
    y: np.ndarray
    ids: Sequence[Hashable]


@dataclass(frozen=True, eq=False)
class Pool:
    """All examples of a problem. Where `test` is None, test examples come from `train`, disjointly.

    `scale(x)` standardises x [n, ...] after the draw.

    Example:

        >>> import numpy as np
        >>> from influencekit.workloads import Part, Pool, by_example
        >>> part = Part(np.random.default_rng(0).normal(size=(90, 3)), np.arange(90) % 2 == 1, range(90))
        >>> pool = Pool(part, None, by_example, ("even", "odd"), "Noise", "none needed", "bundled")
        >>> pool.test is None  # test examples are drawn from train, disjointly
        True
    """

    train: Part
    test: Part | None
    scale: Scaler
    classes: tuple[str, str]
    title: str
    licence: str
    source: str  # "bundled" or "data_dir"


@dataclass(frozen=True, eq=False)
class Draw:
    """x [n, ...] float32 and y [n] float32 of the three sets, and the ids of two of them."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    train_ids: list[Hashable]
    test_ids: list[Hashable]


def stream(seed: int, purpose: str) -> int:
    """A seed for one purpose, so that draw, initialisation and batch order do not repeat each other."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:4], "big")


def draw(pool: Pool, seed: int, n_train: int, n_validation: int, n_test: int) -> Draw:
    """Uniform, disjoint draws: a permutation of the pool, its first rows to train on, the next to validate.

    The test set is drawn the same way from the official test part if there is one, else from the end of the
    permutation, so it does not depend on n_train. Errors: InputError if the pool is too small.
    """
    wanted = {"train": n_train + n_validation, "test": n_test}
    if pool.test is None:
        wanted = {"train": n_train + n_validation + n_test, "test": 0}
    for name, part in (("train", pool.train), ("test", pool.test)):
        if part is not None and len(part.y) < wanted[name]:
            raise InputError(
                f"{pool.title}: {wanted[name]} different examples asked for, "
                f"its {name} part has {len(part.y)}; ask for fewer"
            )
    order = _permutation(len(pool.train.y), seed, "draw")
    test_part = pool.train if pool.test is None else pool.test
    if pool.test is None:
        test_rows = order[len(order) - n_test :]
    else:
        test_rows = _permutation(len(pool.test.y), seed, "draw-test")[:n_test]
    train_rows, validation_rows = order[:n_train], order[n_train : n_train + n_validation]

    def batch(part: Part, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(part.x[rows].astype(np.float32))
        return pool.scale(x), torch.from_numpy(part.y[rows].astype(np.float32))

    return Draw(
        train=batch(pool.train, train_rows),
        validation=batch(pool.train, validation_rows),
        test=batch(test_part, test_rows),
        train_ids=[pool.train.ids[row] for row in train_rows],
        test_ids=[test_part.ids[row] for row in test_rows],
    )


def by_example(x: Tensor) -> Tensor:
    """Each example of x [n, ...] minus its own mean, divided by its own standard deviation. Cost: one pass.

    Example:

        >>> import torch
        >>> from influencekit.workloads import by_example
        >>> by_example(torch.tensor([[1.0, 3.0], [5.0, 5.0]])).tolist()
        [[-1.0, 1.0], [0.0, 0.0]]
    """
    flat = x.flatten(1)
    mean, deviation = flat.mean(1, keepdim=True), flat.std(1, correction=0, keepdim=True)
    return ((flat - mean) / deviation.clamp_min(1e-6)).view_as(x)


def _permutation(n: int, seed: int, purpose: str) -> np.ndarray:
    generator = torch.Generator().manual_seed(stream(seed, purpose))
    return torch.randperm(n, generator=generator).numpy()
