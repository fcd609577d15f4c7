"""A batch: a tensor, a tuple or a dict of tensors whose first dimension counts examples."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from influencekit.errors import InputError

__all__ = [
    "Batch",
    "Examples",
    "NewEntries",
    "first_half_twice",
    "with_tensors",
    "mapped",
    "select",
    "tensors_of",
    "require_test",
    "batch_in_float64",
]

Batch = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""A tensor, a tuple or a dict of tensors, whose first dimension counts examples."""


class Examples(Protocol):
    """A training set that is not in memory: examples are fetched by their positions."""

    def __len__(self) -> int: ...

    def at(self, rows: Tensor) -> Batch:
        """The examples at these positions, of any shape, one after the other."""


class NewEntries(NamedTuple):
    """Other values of some examples, as wrong labels are: `values` [k, ...] of the examples at `positions`
    [k], for each entry of a batch that changes, by its place in `tensors_of`."""

    positions: Tensor
    values: dict[int, Tensor]

    def within(self, batch: Batch, rows: Tensor) -> Batch:
        """A batch of the examples at `rows` [slot], with their new values; it stays as it is itself.

        Where widths differ from batch to batch, as of padded text, what both have is written.
        """
        mine = {int(p): k for k, p in enumerate(self.positions)}
        pairs = [(slot, mine[row]) for slot, row in enumerate(rows.tolist()) if row in mine]
        if not pairs:
            return batch
        slots, own = torch.tensor(pairs, device=self.positions.device).unbind(1)
        found = list(tensors_of(batch))
        for place, values in self.values.items():
            there = found[place].clone()
            given, rows_there = values[own.to(values.device)], there[slots.to(there.device)]
            both = zip(given.shape[1:], rows_there.shape[1:], strict=True)
            overlap = (slice(None), *(slice(0, min(pair)) for pair in both))
            rows_there[overlap] = given[overlap].to(there)
            there[slots.to(there.device)] = rows_there
            found[place] = there
        return with_tensors(batch, found)


def select(batch: Batch, indices: Tensor) -> Batch:
    """The examples of a batch at `indices`, of any shape, which takes the place of the leading dimension.

    Shapes: [example, ...] and [*some] give [*some, ...], in every tensor. Cost: a copy of these examples.
    Errors: `InputError` for no batch at all, of a run that was opened without a test set.

    Example:

        >>> import torch
        >>> from influencekit.extend import select
        >>> x, y = select((torch.arange(10.0), torch.arange(10)), torch.tensor([3, 5]))
        >>> x.tolist(), y.tolist()
        ([3.0, 5.0], [3, 5])
    """
    return mapped(batch, lambda x: x[indices])


def mapped(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with every tensor changed."""
    require_test(batch)
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return {k: change(v) for k, v in batch.items()}
    return tuple(change(v) for v in batch)


def tensors_of(batch: Batch) -> list[Tensor]:
    """The tensors of a batch [example, ...], in their order; copies nothing.

    Errors: `InputError` for no batch at all, of a run that was opened without a test set.

    Example:

        >>> import torch
        >>> from influencekit.extend import tensors_of
        >>> [x.shape for x in tensors_of({"input": torch.zeros(4, 2), "labels": torch.zeros(4)})]
        [torch.Size([4, 2]), torch.Size([4])]
    """
    require_test(batch)
    if isinstance(batch, Tensor):
        return [batch]
    return list(batch.values()) if isinstance(batch, dict) else list(batch)


def with_tensors(batch: Batch, tensors: Sequence[Tensor]) -> Batch:
    """A batch of the same form with other tensors, in the order of `tensors_of`; copies nothing.

    Example:

        >>> import torch
        >>> from influencekit.extend import tensors_of, with_tensors
        >>> batch = {"input": torch.zeros(4, 2), "labels": torch.zeros(4)}
        >>> one = with_tensors(batch, [x[:1] for x in tensors_of(batch)])
        >>> one["input"].shape, one["labels"].shape
        (torch.Size([1, 2]), torch.Size([1]))
    """
    if isinstance(batch, Tensor):
        return tensors[0]
    return dict(zip(batch, tensors, strict=True)) if isinstance(batch, dict) else tuple(tensors)


def first_half_twice(batch: Batch) -> Batch:
    """A batch of the same size with the first half of the examples, each twice in a row."""
    x = tensors_of(batch)[0]
    return select(batch, torch.arange(len(x), device=x.device) // 2)


def batch_in_float64(batch: Batch) -> Batch:
    """A batch with its floating-point tensors in float64."""
    return mapped(batch, lambda x: x.double() if x.is_floating_point() else x)


def require_test(batch: Batch | None) -> None:
    """Errors: no batch at all, of a run that was opened without a test set."""
    if batch is None:
        raise InputError("this needs a test set, and the run was opened without one; pass test=... to open")
