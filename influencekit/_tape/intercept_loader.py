"""Note which examples each batch of a trainer's DataLoader holds, in the order of delivery."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

from torch.utils.data import DataLoader, get_worker_info

from influencekit._tape.loader import Collate, IndexedBatch, check_loader, index_in_place

__all__ = ["check_trainer_loader", "intercept_loader"]


def check_trainer_loader(loader: Any) -> None:
    """Refuse a trainer's source of batches that cannot be recorded."""
    check_loader(loader, "batches", "give the Trainer one torch DataLoader")


def intercept_loader(loader: DataLoader[Any], delivered: deque[IndexedBatch]) -> Callable[[], None]:
    """From now on every batch that `loader` delivers is also put into `delivered`; the result undoes that.

    The loader is changed in place, since a trainer holds it already: its data set and collation are wrapped,
    and, with workers, its iteration. Samplers, order, workers, batches and random numbers stay the same.
    Errors: something that is not a torch DataLoader, or one over an `IterableDataset`.
    """
    check_trainer_loader(loader)
    kind, before = type(loader), {name: loader.__dict__[name] for name in ("dataset", "collate_fn")}
    index_in_place(loader, _NotingCollate(loader.collate_fn, delivered))
    if loader.num_workers:  # what another process fetches is noted when it arrives in this one
        loader.__class__ = type(kind.__name__, (_NotingLoader, kind), {"delivered": delivered})

    def undo() -> None:
        loader.__class__ = kind
        loader.__dict__.update(before, _iterator=None)

    return undo


class _NotingCollate(Collate):
    """The user's collation. In the main process it notes the batch; in a worker it adds the positions."""

    def __init__(self, collate: Any, delivered: deque[IndexedBatch]) -> None:
        super().__init__(collate)
        self._delivered = delivered

    def __call__(self, item: tuple[list[int], bytes, Any]) -> Any:
        fetched = IndexedBatch(*super().__call__(item))
        if get_worker_info() is not None:
            return tuple(fetched)
        self._delivered.append(fetched._replace(batch=copy(fetched.batch)))  # a loop may take entries out
        return fetched.batch


class _NotingLoader(DataLoader[Any]):
    """A loader whose workers send batches with positions. It notes them and delivers the batches alone."""

    delivered: deque[IndexedBatch]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for indices, rng, batch in super().__iter__():
            self.delivered.append(IndexedBatch(list(indices), rng, copy(batch)))
            yield batch
