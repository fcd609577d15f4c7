"""The batches of a loop, with the positions of their examples: of DataLoaders, wrapped ones, and pairs."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten
from torch.utils.data import DataLoader

from influencekit._tape.index_entry import without
from influencekit._tape.intercept_loader import intercept_loader
from influencekit._tape.loader import IndexedBatch, StoredBatch, indexed_loader, positions_in
from influencekit._tape.rng import capture
from influencekit._tape.stream import StreamExamples
from influencekit._tape.unwrap import LoaderPlace, find_loader
from influencekit.errors import InputError
from influencekit.progress import announce

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

    def __init__(self, data: Any, id_entry: str | None = None) -> None:
        self._data, self._id_entry, self._said = data, id_entry, False
        self._copies: WeakKeyDictionary[Any, DataLoader[Any]] = WeakKeyDictionary()
        self._noting: WeakKeyDictionary[Any, tuple[DataLoader[Any], deque[IndexedBatch]]] = (
            WeakKeyDictionary()
        )

    def batches(self, loader: Any) -> Iterator[IndexedBatch | StoredBatch]:
        """Of a DataLoader, of an object around one, or of pairs (positions, batch); without a data set of
        anything that gives batches, or pairs (ids, batch)."""
        place = find_loader(loader)
        if isinstance(self._data, StreamExamples):
            yield from self._stored(loader, self._data, place is not None)
            return
        if place is None and not hasattr(loader, "dataset"):
            yield from _pairs(loader)
            return
        inner = loader if place is None else place.loader
        moved = positions_in(self._data, getattr(inner, "dataset", None))
        found = self._plain(inner) if place is None or place.owner is None else self._wrapped(loader, place)
        for each in found:
            yield each if moved is None else each._replace(indices=moved(each.indices))

    def _stored(self, loader: Any, examples: StreamExamples, bare: bool) -> Iterator[StoredBatch]:
        """Batches of a loop without a data set; `bare`: without ids."""
        try:
            items = iter(loader)
        except TypeError:
            raise InputError(
                f"batches: expected something that gives batches, got {type(loader).__name__}"
            ) from None
        if isinstance(loader, enumerate):
            raise InputError(_advice(loader))
        for item in items:
            ids, given, batch = _split(item, bare)
            if self._id_entry is not None:
                if not isinstance(given, Mapping) or self._id_entry not in given:
                    raise InputError(f"ids={self._id_entry!r}: the batch has no entry of that name")
                ids, batch = list(given[self._id_entry]), without(given, self._id_entry)
            found = examples.register(ids, batch, given)
            if not self._said:
                self._said = True
                _announce(examples, found, loader)
            yield found

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


def _split(item: Any, bare: bool) -> tuple[Sequence[Any] | None, Any, Any]:
    """(ids or None, what the loop gets, the batch) of what a loop without a data set iterates over.

    A pair has ids, a list or tuple, and where the batch beside them is no tensor also an array or a tensor.
    What a DataLoader gives (`bare`) is a batch; text in its first entry is ids.
    """
    if not isinstance(item, tuple | list) or len(item) < 2:
        return None, item, item
    first, rest = item[0], item[1] if len(item) == 2 else tuple(item[1:])
    listed = isinstance(first, list | tuple | range)
    if listed and len(first) and all(isinstance(x, str) for x in first):
        return list(first), item if bare or len(item) > 2 else rest, rest
    if bare or len(item) > 2:
        return None, item, item
    if listed and not any(isinstance(x, Tensor) and x.dim() for x in first):
        return list(first), rest, rest
    if isinstance(first, Tensor | np.ndarray) and first.ndim == 1 and not isinstance(rest, Tensor):
        return first.tolist(), rest, rest
    return None, item, item


def _announce(examples: StreamExamples, found: StoredBatch, loader: Any) -> None:
    """Say how much room the examples will take, before the first is stored."""
    each, batch = examples.bytes_of(found.rows[0]), len(found.rows)
    try:
        whole = f", {_size(each * batch * len(loader))} for an epoch in which none repeats"
    except TypeError:  # nobody knows how long it is
        whole = f", {_size(each * batch)} for a batch"
    text = f"without a data set the tape keeps the examples in its store: {_size(each)} for each{whole}"
    announce(text, 0, 1)
    warnings.warn(text, UserWarning, stacklevel=2)


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB"


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
            indices = indices.tolist() if indices.ndim == 1 else None
        kinds = set(map(type, indices)) if isinstance(indices, Sequence) else {None}
        if indices is None or not all(isinstance(k, type) and issubclass(k, int | np.integer) for k in kinds):
            raise InputError(_advice(loader))
        yield IndexedBatch(list(map(int, indices)), capture(), item[1])


def _advice(loader: Any) -> str:
    kind = type(loader).__name__
    if kind == "enumerate":
        return "tape.batches cannot look into enumerate(loader); write enumerate(tape.batches(loader))"
    return (
        f"tape.batches got a {kind}, which is no DataLoader and does not give pairs (positions, batch); pass "
        "the DataLoader itself and wrap what the tape gives, as in tqdm(tape.batches(loader)), or give pairs "
        "of the positions in data= and the batch"
    )
