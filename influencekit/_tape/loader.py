"""DataLoaders whose batches come with the positions of their examples and the random state before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, default_collate

from influencekit._tape.rng import capture, fixed, restored
from influencekit.errors import InputError

__all__ = [
    "Collate", "IndexedBatch", "IndexedDataset", "Stacked", "StoredBatch", "as_data_set", "check_loader",
    "entries", "fetch", "index_in_place", "indexed_loader", "items", "positions_in", "rows_behind",
]  # fmt: skip


class IndexedBatch(NamedTuple):
    """A batch, the positions of its examples in the data set, and the generators before they were fetched.

    `batch` is None where it is not at hand.
    """

    indices: list[int]
    rng: bytes
    batch: Any


class StoredBatch(NamedTuple):
    """The same of a loop without a data set. `rows` are the contents of the examples in the store, `given` is
    the batch as the loop gets it."""

    indices: list[int]
    rng: bytes | None
    batch: Any
    rows: list[int]
    given: Any


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
    indexed = IndexedDataset(loader.dataset, loader.collate_fn)
    loader.__dict__.update(dataset=indexed, collate_fn=collate, _iterator=None)


def indexed_loader(loader: DataLoader[Any], data: Any) -> DataLoader[Any]:
    """The same loader with `IndexedBatch` for batches: same samplers, workers, collation, random numbers.

    Positions and random states are noted where the examples are fetched, in the worker if there is one.
    Errors: an `IterableDataset`, whose examples have no positions; another data set than `data`; batches
    that the data set makes itself.
    """
    check_loader(loader, "batches", "for batches of your own making pass pairs (positions, batch)")
    if not _within(loader.dataset, data):
        raise InputError(
            "the loader reads another data set than data=..., so positions in it would name other examples; "
            "pass data=loader.dataset"
        )
    if loader.batch_sampler is None:
        raise InputError(
            "the loader has batch_size=None, so what it gives cannot be told apart into examples; pass the "
            "sampler of batches as batch_sampler=..."
        )
    indexed = copy(loader)
    index_in_place(indexed, Collate(loader.collate_fn))
    return indexed


def as_data_set(data: Any) -> Any:
    """A data set of tensors of examples, as in data=(X, Y) or data={"input": X, "labels": Y}."""
    if isinstance(data, tuple | list) and any(isinstance(x, np.ndarray) for x in data):
        raise InputError("data: got arrays of numpy; make tensors of them: torch.from_numpy(x)")
    if isinstance(data, tuple) and len(data) > 0 and all(isinstance(x, Tensor) for x in data):
        sizes = {len(x) if x.dim() else 0 for x in data}
        if len(sizes) > 1:
            raise InputError(f"data: the tensors have {sorted(sizes)} rows; give one row an example in each")
        return TensorDataset(*data)
    if isinstance(data, Mapping) and data and all(isinstance(x, Tensor) and x.dim() for x in data.values()):
        if len(sizes := {len(x) for x in data.values()}) > 1:
            raise InputError(f"data: the tensors have {sorted(sizes)} rows; give one row an example in each")
        return _Rows(data)
    return data


class _Rows:
    """Rows of named tensors: items are dicts."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: x[index] for name, x in self.tensors.items()}


def rows_behind(data: Any) -> tuple[dict[str, Tensor], Tensor | None] | None:
    """The tensors whose rows are the examples, by entry, and which rows (None: all); None for other data."""
    if type(data) is _Rows:
        return data.tensors, None
    if type(data) is TensorDataset:
        return {str(k): x for k, x in enumerate(data.tensors)}, None
    if type(data) is Subset and (found := rows_behind(data.dataset)) is not None:
        rows = torch.as_tensor(data.indices)
        return found[0], rows if found[1] is None else found[1][rows]
    return None


def _within(dataset: Any, data: Any) -> bool:
    """Whether a loader's data set is the tape's, or a subset of it."""
    while not _same_tables(dataset, data):
        if not isinstance(dataset, Subset):
            return False
        dataset = dataset.dataset
    return True


def _same_tables(dataset: Any, data: Any) -> bool:
    if dataset is data:
        return True
    both = isinstance(dataset, TensorDataset) and isinstance(data, TensorDataset)
    return (
        both
        and len(dataset.tensors) == len(data.tensors)
        and all(a is b for a, b in zip(dataset.tensors, data.tensors, strict=True))
    )


def positions_in(data: Any, dataset: Any) -> Callable[[Sequence[int]], list[int]] | None:
    """What turns positions in a subset into those in `data`; None where they are the same."""
    if _same_tables(dataset, data) or not isinstance(dataset, Subset) or not _within(dataset, data):
        return None
    chain = []
    while not _same_tables(dataset, data):
        chain.append(dataset.indices)
        dataset = dataset.dataset

    def moved(indices: Sequence[int]) -> list[int]:
        found = list(indices)
        for table in chain:
            found = [int(table[i]) for i in found]
        return found

    return moved


def entries(data: Any, name: str) -> list[Any]:
    """One entry of every example, fetched. Errors: examples that are no dicts, or have no such entry."""
    with fixed():
        found = [items(data, [i])[0] for i in range(len(data))]
    if any(not isinstance(each, Mapping) or name not in each for each in found):
        raise InputError(
            f"ids={name!r}: the examples of data= have no entry of that name; pass a list of ids"
        )
    return [each[name] for each in found]


def fetch(data: Any, collate: Any, indices: Sequence[int], rng: bytes | None) -> Any:
    """The batch of these positions, fetched and collated again in the random state of its first time."""
    with restored(rng):
        found = items(data, list(indices), collate)
        return list(found) if type(found) is Stacked else collate(found)


class Stacked(list[Any]):
    """A batch that is made already, as `default_collate` makes it of the rows of tensors."""


def _plain(x: Tensor) -> bool:
    """Whether rows of it, taken at once, are what stacking them one by one gives."""
    return type(x) is Tensor and x.layout is torch.strided and x.is_contiguous() and not x.requires_grad


def items(data: Any, indices: list[int], collate: Any = None) -> list[Any]:
    """Examples of a data set, fetched as torch's own fetcher does. Rows of tensors that `collate` would only
    stack come `Stacked`."""
    if type(data) is TensorDataset and collate is default_collate and len(indices):
        if all(_plain(x) for x in data.tensors):
            rows = torch.as_tensor(indices)
            return Stacked(x[rows] for x in data.tensors)
    together = getattr(data, "__getitems__", None)
    return together(indices) if together else [data[i] for i in indices]


class IndexedDataset:
    """A data set whose items are (positions, generators before, items)."""

    def __init__(self, data: Any, collate: Any) -> None:
        self._data, self._collate = data, collate

    def __len__(self) -> int:
        return len(self._data)

    def __getattr__(self, name: str) -> Any:
        """The attributes of the data set, which a `worker_init_fn` may use."""
        if name == "_data":  # not there while it is unpickled
            raise AttributeError(name)
        return getattr(self._data, name)

    def __getitems__(self, indices: list[int]) -> tuple[list[int], bytes, list[Any]]:
        return list(map(int, indices)), capture(), items(self._data, indices, self._collate)

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
        return indices, rng, list(items) if type(items) is Stacked else self._collate(items)
