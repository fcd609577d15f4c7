"""DataLoaders whose batches come with the positions of their examples and the random state before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch.utils.data import DataLoader, IterableDataset

from influencekit._tape.rng import capture, restored
from influencekit.errors import InputError

__all__ = [
    "Collate", "IndexedBatch", "IndexedDataset", "IndexedLoaders", "check_loader", "fetch", "index_in_place",
    "indexed_loader", "items",
]  # fmt: skip


class IndexedBatch(NamedTuple):
    """A batch, the positions of its examples in the data set, and the generators before they were fetched.

    `batch` is None where it is not at hand.
    """

    indices: list[int]
    rng: bytes
    batch: Any


def check_loader(loader: Any, name: str, advice: str) -> None:
    """Refuse what is not a torch DataLoader over a map-style data set. `name`: what the user calls it."""
    if not isinstance(loader, DataLoader):
        raise InputError(f"{name}: expected a torch DataLoader, got {type(loader).__name__}; {advice}")
    if isinstance(loader.dataset, IterableDataset):
        raise InputError(
            "the DataLoader reads an IterableDataset, whose examples have no positions, so none could be "
            "fetched again; use a map-style data set (__getitem__ and __len__)"
        )


def index_in_place(loader: DataLoader[Any], collate: Collate) -> None:
    """From now on `loader` fetches positions and random states, too, and hands them to `collate`."""
    loader.__dict__.update(dataset=IndexedDataset(loader.dataset), collate_fn=collate, _iterator=None)


def indexed_loader(loader: DataLoader[Any], data: Any) -> DataLoader[Any]:
    """The same loader with `IndexedBatch` for batches: same samplers, workers, collation, random numbers.

    Positions and random states are noted where the examples are fetched, in the worker if there is one.
    Errors: an `IterableDataset`, whose examples have no positions; another data set than `data`; batches
    that the data set makes itself.
    """
    check_loader(loader, "batches", "for batches of your own making pass pairs (positions, batch)")
    if loader.dataset is not data:
        raise InputError(
            "the loader reads another data set than data=..., so positions in it would name other examples; "
            "pass data=loader.dataset (a Subset is a data set of its own)"
        )
    if loader.batch_sampler is None:
        raise InputError(
            "the loader has batch_size=None, so what it gives cannot be told apart into examples; pass the "
            "sampler of batches as batch_sampler=..."
        )
    indexed = copy(loader)
    index_in_place(indexed, Collate(loader.collate_fn))
    return indexed


def fetch(data: Any, collate: Any, indices: Sequence[int], rng: bytes | None) -> Any:
    """The batch of these positions, fetched and collated again in the random state of its first time."""
    with restored(rng):
        return collate(items(data, list(indices)))


def items(data: Any, indices: list[int]) -> list[Any]:
    """Examples of a data set, fetched as torch's own fetcher does."""
    together = getattr(data, "__getitems__", None)
    return together(indices) if together else [data[i] for i in indices]


class IndexedDataset:
    """A data set whose items are (positions, generators before, items)."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getattr__(self, name: str) -> Any:
        """The attributes of the data set, which a `worker_init_fn` may use."""
        if name == "_data":  # not there while it is unpickled
            raise AttributeError(name)
        return getattr(self._data, name)

    def __getitems__(self, indices: list[int]) -> tuple[list[int], bytes, list[Any]]:
        return [int(i) for i in indices], capture(), items(self._data, indices)

    def __getitem__(self, index: Any) -> tuple[list[int], bytes, Any]:
        """Without automatic collation an index may be a whole batch of positions."""
        indices = index.tolist() if isinstance(index, torch.Tensor) else index
        indices = [int(i) for i in indices] if isinstance(indices, Sequence) else [int(indices)]
        return indices, capture(), self._data[index]


class Collate:
    """The user's collation, of the items alone."""

    def __init__(self, collate: Any) -> None:
        self._collate = collate

    def __call__(self, item: tuple[list[int], bytes, Any]) -> tuple[list[int], bytes, Any]:
        indices, rng, items = item
        return indices, rng, self._collate(items)


class IndexedLoaders:
    """The loop's own loaders, each with one indexed copy, so that its workers may persist."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self._copies: WeakKeyDictionary[Any, DataLoader[Any]] = WeakKeyDictionary()

    def batches(self, loader: Any) -> Iterator[IndexedBatch]:
        """Of a DataLoader, or of pairs (positions, batch)."""
        if not hasattr(loader, "dataset"):
            for indices, batch in loader:
                yield IndexedBatch([int(i) for i in indices], capture(), batch)
            return
        if loader not in self._copies:
            self._copies[loader] = indexed_loader(loader, self._data)
        for indices, rng, batch in self._copies[loader]:
            yield IndexedBatch(list(indices), rng, batch)
