"""The batches of a loop, with the positions of their examples: of DataLoaders, wrapped ones, and pairs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from copy import copy
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten
from torch.utils.data import DataLoader

from influencekit._tape.intercept_loader import intercept_loader
from influencekit._tape.loader import IndexedBatch, indexed_loader, positions_in
from influencekit._tape.rng import capture
from influencekit._tape.unwrap import LoaderPlace, find_loader
from influencekit.errors import InputError

__all__ = ["Batches", "LoopBatches"]

_SAMPLE = 512  # entries of a tensor that are compared


class Batches:
    """What `Tape.batches` gives: (ids, batch) of an epoch. Every iteration over it is another epoch."""

    def __init__(
        self, begin: Callable[[Any], Iterator[tuple[list[Hashable], Any]]], loader: Iterable[Any]
    ) -> None:
        self._begin, self._loader = begin, loader
        self._going: Iterator[tuple[list[Hashable], Any]] | None = None

    def __iter__(self) -> Iterator[tuple[list[Hashable], Any]]:
        return self._begin(self._loader)

    def __next__(self) -> tuple[list[Hashable], Any]:
        if self._going is None:
            self._going = iter(self)
        return next(self._going)

    def __len__(self) -> int:
        """The number of batches of an epoch, where the loader has one."""
        return len(self._loader)  # type: ignore[arg-type]


class LoopBatches:
    """The loop's own loaders, each with one indexed copy, so that its workers may persist."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self._copies: WeakKeyDictionary[Any, DataLoader[Any]] = WeakKeyDictionary()
        self._noting: WeakKeyDictionary[Any, tuple[DataLoader[Any], deque[IndexedBatch]]] = (
            WeakKeyDictionary()
        )

    def batches(self, loader: Any) -> Iterator[IndexedBatch]:
        """Of a DataLoader, of an object around one, or of pairs (positions, batch)."""
        place = find_loader(loader)
        if place is None and not hasattr(loader, "dataset"):
            yield from _pairs(loader)
            return
        inner = loader if place is None else place.loader
        moved = positions_in(self._data, getattr(inner, "dataset", None))
        found = self._plain(inner) if place is None or place.owner is None else self._wrapped(loader, place)
        for each in found:
            yield each if moved is None else each._replace(indices=moved(each.indices))

    def _plain(self, loader: Any) -> Iterator[IndexedBatch]:
        if loader not in self._copies:
            self._copies[loader] = indexed_loader(loader, self._data)
        for indices, rng, batch in self._copies[loader]:
            yield IndexedBatch(list(indices), rng, batch)

    def _wrapped(self, wrapper: Any, place: LoaderPlace) -> Iterator[IndexedBatch]:
        """The wrapper iterates, over a copy of its loader that notes what it delivers."""
        inner, kind = place.loader, type(wrapper).__name__
        if inner not in self._noting:
            indexed_loader(inner, self._data)  # whose errors say what cannot be recorded
            copied, delivered = copy(inner), deque[IndexedBatch]()
            intercept_loader(copied, delivered)
            self._noting[inner] = copied, delivered
        copied, delivered = self._noting[inner]
        delivered.clear()
        setattr(place.owner, place.name, copied)
        try:
            for batch in wrapper:
                if not delivered or not _same(delivered[0].batch, batch):
                    raise InputError(
                        f"{kind} does not give the batches of its DataLoader as they are; pass the "
                        f"DataLoader itself, and wrap what the tape gives: {kind}(tape.batches(loader)); "
                        "what changes a batch belongs into the data set, collate_fn or forward="
                    )
                yield delivered.popleft()._replace(batch=batch)
        finally:
            setattr(place.owner, place.name, inner)


def _same(mine: Any, given: Any) -> bool:
    """Whether two batches hold the same tensors, be it on another device; of large ones a sample is read."""
    if mine is given:
        return True
    ours, theirs = tree_flatten(mine)[0], tree_flatten(given)[0]
    return len(ours) == len(theirs) and all(
        not isinstance(x, Tensor)
        or (isinstance(y, Tensor) and x.shape == y.shape and torch.equal(_some(x), _some(y).to(x)))
        for x, y in zip(ours, theirs, strict=True)
    )


def _some(x: Tensor) -> Tensor:
    flat = x.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLE)].nan_to_num()


def _pairs(loader: Any) -> Iterator[IndexedBatch]:
    try:
        items = iter(loader)
    except TypeError:
        raise InputError(
            f"batches: expected a torch DataLoader, got {type(loader).__name__}, which gives no batches"
        ) from None
    for item in items:
        indices = item[0] if isinstance(item, tuple | list) and len(item) == 2 else None
        if isinstance(indices, Tensor | np.ndarray):
            whole = indices.ndim == 1 and not np.issubdtype(np.asarray(indices.tolist()).dtype, np.floating)
            indices = indices.tolist() if whole else None
        if not isinstance(indices, Sequence) or not all(isinstance(i, int | np.integer) for i in indices):
            raise InputError(_advice(loader))
        yield IndexedBatch([int(i) for i in indices], capture(), item[1])


def _advice(loader: Any) -> str:
    kind = type(loader).__name__
    if kind == "enumerate":
        return "tape.batches cannot look into enumerate(loader); write enumerate(tape.batches(loader))"
    return (
        f"tape.batches got a {kind}, which is no DataLoader and does not give pairs (positions, batch); pass "
        "the DataLoader itself and wrap what the tape gives, as in tqdm(tape.batches(loader)), or give pairs "
        "of the positions in data= and the batch"
    )
