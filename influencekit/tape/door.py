"""What a tape does not take, refused by name before the loop begins."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from influencekit.errors import InputError
from influencekit.training.checks.model import check_model
from influencekit.training.ids import checked_ids

__all__ = ["admit", "own_ids", "refuse_parallel"]


def admit(
    model: nn.Module, trained: Iterable[Tensor], data: Any, accumulate: int, reduction: Any, check: float
) -> None:
    """Refuse settings that make no sense, models that give wrong numbers, and loops over several
    processes."""
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise InputError(
            f"data: expected a map-style data set (__len__ and __getitem__), got {type(data).__name__}"
        )
    check_model(model, trained)
    refuse_parallel()
    if accumulate < 1:
        raise InputError(f"accumulate must be at least 1, got {accumulate}")
    if isinstance(reduction, str) and reduction not in ("mean", "sum"):
        raise InputError(f"reduction must be 'mean', 'sum' or a function of the batch, got {reduction!r}")
    if not 0 <= check <= 1:
        raise InputError(f"check must be from 0 (no step) to 1 (every step), got {check}")


def refuse_parallel() -> None:
    """Refuse several processes, whose gradients are averaged where one tape cannot see it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        if (count := torch.distributed.get_world_size()) > 1:
            raise InputError(
                f"{count} processes train together (torch.distributed), and a tape sees the examples of one "
                "alone; train in one process, with accumulate= for batches of the same size"
            )


def own_ids(ids: Sequence[Hashable] | np.ndarray | None, count: int) -> list[Hashable]:
    """The names of the examples as plain values; by default their positions.

    Errors: another number of them; two that are the same, or look the same when written (1 and "1").
    """
    return list(range(count)) if ids is None else checked_ids(ids, count, "ids")
