"""Data sets that give the number of each example: an entry that is neither input nor target."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from influencekit._training.call import Loss, sees_batch
from influencekit.errors import InputError

__all__ = ["WithoutEntry", "find_index", "without"]

Key = int | str


class WithoutEntry:
    """A collation whose batches lack one entry."""

    def __init__(self, collate: Callable[[list[Any]], Any], key: Key) -> None:
        self.collate: Callable[[list[Any]], Any] = (
            collate.collate if isinstance(collate, WithoutEntry) else collate
        )
        self.key = key

    def __call__(self, items: list[Any]) -> Any:
        return without(self.collate(items), self.key)


def without(batch: Any, key: Key) -> Any:
    """A batch without one of its entries."""
    if isinstance(batch, Mapping):
        return {k: v for k, v in batch.items() if k != key}
    return tuple(batch[:key]) + tuple(batch[int(key) + 1 :]) if isinstance(key, int) else batch


def find_index(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], batch: Any, loss: Loss, target_key: str,
    indices: Sequence[int], data: Any,
) -> Key | None:  # fmt: skip
    """The entry of a batch that numbers its examples, where the loop gives it neither to the model nor to the
    loss. The loop has called `model(*args, **kwargs)`.

    Errors: batches with other inputs than those of the loop.
    """
    given = len(args) + len(kwargs)
    if sees_batch(loss):
        indices = []
    if isinstance(batch, Mapping):
        rest = [k for k in batch if k != target_key and k not in kwargs]
        found = [k for k in rest if _numbers(batch[k], indices, data)]
        return found[0] if len(found) == 1 and given < len(batch) - 1 else None
    if not isinstance(batch, list | tuple) or given in (len(batch) - 1, len(batch) == 1):
        return None
    last = len(batch) - 1
    if given == len(batch) - 2 and last > 1 and _numbers(batch[last], indices, data):
        return last
    try:
        inspect.signature(model.forward).bind(*batch[:-1])
    except TypeError:
        raise InputError(
            f"the loop calls the model with {given} inputs, and the batch has {len(batch)} entries, of which "
            f"the tape takes the first {last} for inputs and the last for the target; pass forward=, for "
            "instance forward=lambda model, batch: model(batch[0])"
        ) from None
    return None


def _numbers(entry: Any, indices: Sequence[int], data: Any) -> bool:
    """Whether an entry is the positions of the examples, in `data` or in the set that it is a subset of."""
    if not isinstance(entry, Tensor) or entry.dim() != 1 or entry.is_floating_point() or len(entry) < 2:
        return False
    found, own = entry.tolist(), list(indices)
    while found != own and isinstance(data, Subset):
        own, data = [int(data.indices[i]) for i in own], data.dataset
    return found == own and entry.dtype != torch.bool
