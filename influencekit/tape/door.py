"""What a tape does not take, refused by name before the loop begins."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from influencekit.errors import InputError

__all__ = ["admit", "own_ids", "refuse_parallel"]

_WRAPPERS = {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "FSDPModule"}


def admit(model: nn.Module, data: Any, accumulate: int, reduction: Any, check: float) -> None:
    """Refuse settings that make no sense, compiled models and loops that are spread over devices."""
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise InputError(
            f"data: expected a map-style data set (__len__ and __getitem__), got {type(data).__name__}"
        )
    if hasattr(model, "_orig_mod"):
        raise InputError(
            "model: torch.compile's kernels cannot be replayed by others; record the model uncompiled"
        )
    refuse_parallel(model)
    if lazy := [n for n, p in model.named_parameters() if isinstance(p, UninitializedParameter)]:
        raise InputError(
            f"parameter {lazy[0]} is lazy; run one batch through the model before the tape is made"
        )
    if accumulate < 1:
        raise InputError(f"accumulate must be at least 1, got {accumulate}")
    if isinstance(reduction, str) and reduction not in ("mean", "sum"):
        raise InputError(f"reduction must be 'mean', 'sum' or a function of the batch, got {reduction!r}")
    if not 0 <= check <= 1:
        raise InputError(f"check must be from 0 (no step) to 1 (every step), got {check}")


def refuse_parallel(model: nn.Module) -> None:
    """Refuse several processes or devices, whose gradients are averaged where one tape cannot see it."""
    for name, module in model.named_modules():
        if found := {kind.__name__ for kind in type(module).__mro__} & _WRAPPERS:
            raise InputError(
                f"{f'module {name}' if name else 'the model'} is wrapped in {sorted(found)[0]}, which "
                "spreads a step over processes or devices; train it in one process on one device, and pass "
                "the model without its wrapper (model.module)"
            )
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
    if ids is None:
        return list(range(count))
    plain = [x.item() if isinstance(x, np.generic | torch.Tensor) else x for x in ids]
    if len(plain) != count or len({str(x) for x in plain}) != len(plain):
        seen: set[str] = set()
        twin = next((x for x in plain if str(x) in seen or seen.add(str(x))), None)  # type: ignore[func-returns-value]
        twins = "" if twin is None else f"; {twin!r} stands there twice (1 and '1' are the same)"
        raise InputError(
            f"ids: expected {count} different ids, one an example, got {len({str(x) for x in plain})}{twins}"
        )
    return plain
