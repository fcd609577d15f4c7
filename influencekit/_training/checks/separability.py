"""Is the loss of an example its own? And if not, is batch normalisation all that ties it to the others?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from influencekit._training.batch import Batch, select, tensors_of

__all__ = ["BATCH_STATISTICS", "fixed_statistics", "own_losses"]

BATCH_STATISTICS = (
    "the model normalises by statistics of the whole batch: without an example, its term of the loss is "
    "left out and "
    "it stays in those statistics; queries are evaluated with running statistics, those of each retrained "
    "model its own"
)


def own_losses(losses: Callable[[Batch], Tensor], batch: Batch, first_only: bool = False) -> bool:
    """Whether the first and the last example's losses stay when all others are replaced by copies of it.

    `first_only`: where losses are random, later examples may draw other numbers behind other neighbours.
    """
    first = tensors_of(batch)[0]
    with torch.no_grad():
        together = losses(batch)
        for k in (0,) if first_only else (0, len(first) - 1):
            copies = select(batch, torch.full((len(first),), k, device=first.device))
            if not _close(together[k], losses(copies)[k]):
                return False
    return True


class fixed_statistics(TorchFunctionMode):  # noqa: N801 (a context, called like one)
    """Inside, batch normalisation is by fixed numbers, so that it ties no example to another."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.batch_norm:
            return func(*args, **kwargs)
        return _affine(*args, **kwargs)


def _affine(
    input: Tensor, running_mean: Any, running_var: Any, weight: Tensor | None = None, bias: Tensor | None =
    None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    shape = (1, -1, *[1] * (input.dim() - 2))
    scaled = input if weight is None else input * weight.view(shape)
    return scaled if bias is None else scaled + bias.view(shape)


def _close(one: Tensor, other: Tensor) -> bool:
    tolerance = 1e-8 if one.dtype == torch.float64 else 1e-4
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)
