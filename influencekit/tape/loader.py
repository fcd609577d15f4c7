"""A DataLoader that tells which examples it delivers, and the random state they were fetched in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, IterableDataset

from influencekit.errors import InputError
from influencekit.tape.rng import capture, restored

__all__ = ["Collate", "Fetched", "Told", "delivered", "fetch", "told"]


class Fetched(NamedTuple):
    """A batch, the positions of its examples in the data set, and the generators before they were fetched."""

    indices: list[int]
    rng: bytes
    batch: Any


def told(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The same loader, its batches replaced by `Fetched`: same samplers, workers, collation, random numbers.

    Positions and random states are noted where the examples are fetched, in the worker if there is one.
    Errors: an `IterableDataset`, whose examples have no positions.
    """
    if not isinstance(loader, DataLoader):
        raise InputError(
            f"batches: expected a torch DataLoader, got {type(loader).__name__}; for batches of your own "
            "making pass pairs (positions, batch)"
        )
    if isinstance(loader.dataset, IterableDataset):
        raise InputError(
            "the DataLoader reads an IterableDataset, whose examples have no positions, so none could be "
            "fetched again; use a map-style data set (__getitem__ and __len__)"
        )
    twin = copy(loader)
    twin.__dict__.update(dataset=Told(loader.dataset), collate_fn=Collate(loader.collate_fn), _iterator=None)
    return twin


def fetch(data: Any, collate: Any, indices: Sequence[int], rng: bytes | None) -> Any:
    """The batch of these positions, fetched and collated again in the random state of its first time."""
    with restored(rng):
        return collate(_items(data, list(indices)))


def _items(data: Any, indices: list[int]) -> list[Any]:
    together = getattr(data, "__getitems__", None)  # as torch's own fetcher does
    return together(indices) if together else [data[i] for i in indices]


class Told:
    """A data set whose items are (positions, generators before, items)."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitems__(self, indices: list[int]) -> tuple[list[int], bytes, list[Any]]:
        return [int(i) for i in indices], capture(), _items(self._data, indices)

    def __getitem__(self, index: Any) -> tuple[list[int], bytes, Any]:
        """Without automatic collation an index may be a whole batch of positions."""
        indices = index.tolist() if isinstance(index, torch.Tensor) else index
        indices = [int(i) for i in indices] if isinstance(indices, Sequence) else [int(indices)]
        return indices, capture(), self._data[index]


class Collate:
    """The user's collation, of the items alone."""

    def __init__(self, collate: Any) -> None:
        self._collate = collate

    def __call__(self, told: tuple[list[int], bytes, Any]) -> tuple[list[int], bytes, Any]:
        indices, rng, items = told
        return indices, rng, self._collate(items)


def delivered(loader: DataLoader[Any]) -> Iterator[Fetched]:
    """The batches of a loader that came from `told`."""
    for indices, rng, batch in loader:
        yield Fetched(list(indices), rng, batch)
