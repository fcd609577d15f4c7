"""Overhear the DataLoader of a trainer: which examples every batch holds, in the order of delivery."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from influencekit.errors import InputError
from influencekit.tape.loader import Collate, IndexedBatch, IndexedDataset

__all__ = ["intercept_loader"]


def intercept_loader(loader: DataLoader[Any], heard: deque[IndexedBatch]) -> Callable[[], None]:
    """From now on every batch that `loader` delivers is also put into `heard`; the result undoes that.

    The loader is changed in place, since a trainer holds it already: its data set and collation are wrapped,
    and, with workers, its iteration. Samplers, order, workers, batches and random numbers stay the same.
    Errors: something that is not a torch DataLoader, or one over an `IterableDataset`.
    """
    if not isinstance(loader, DataLoader):
        raise InputError(
            f"the trainer reads its batches from a {type(loader).__name__}; give it one torch DataLoader"
        )
    if isinstance(loader.dataset, IterableDataset):
        raise InputError(
            "the DataLoader reads an IterableDataset, whose examples have no positions, so none could be "
            "fetched again; use a map-style data set (__getitem__ and __len__)"
        )
    kind, before = type(loader), {name: loader.__dict__[name] for name in ("dataset", "collate_fn")}
    loader.__dict__.update(
        dataset=IndexedDataset(loader.dataset), collate_fn=_Hearing(loader.collate_fn, heard), _iterator=None
    )
    if loader.num_workers:  # what is fetched in another process is heard when it arrives in this one
        loader.__class__ = type(kind.__name__, (_Arriving, kind), {"heard": heard})

    def undo() -> None:
        loader.__class__ = kind
        loader.__dict__.update(before, _iterator=None)

    return undo


class _Hearing(Collate):
    """The user's collation; hears what it collates in the main process, and packs it in a worker."""

    def __init__(self, collate: Any, heard: deque[IndexedBatch]) -> None:
        super().__init__(collate)
        self._heard = heard

    def __call__(self, item: tuple[list[int], bytes, Any]) -> Any:
        fetched = IndexedBatch(*super().__call__(item))
        if get_worker_info() is not None:
            return tuple(fetched)
        self._heard.append(fetched._replace(batch=copy(fetched.batch)))  # a loop may take entries out
        return fetched.batch


class _Arriving(DataLoader[Any]):
    """A loader whose workers send packed batches, and which delivers them unpacked."""

    heard: deque[IndexedBatch]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for indices, rng, batch in super().__iter__():
            self.heard.append(IndexedBatch(list(indices), rng, copy(batch)))
            yield batch
