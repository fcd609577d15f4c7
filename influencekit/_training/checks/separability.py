"""Is the loss of an example its own? And if not, is batch normalisation all that ties it to the others?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from influencekit._training.batch import Batch, select, tensors_of
from influencekit.errors import InputError

__all__ = ["BATCH_STATISTICS", "fixed_statistics", "one_example", "own_losses"]

BATCH_STATISTICS = (
    "the model normalises by statistics of the whole batch: without an example, its term of the loss is "
    "left out and "
    "it stays in those statistics; queries are evaluated with running statistics, those of each retrained "
    "model its own"
)


_FEW = 4  # test examples among which one is looked at
_ALONE: WeakKeyDictionary[nn.Module, set[tuple[str, int, int]]] = WeakKeyDictionary()


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


def one_example(
    query: str, workload: Any, example: int, values: Callable[[Tensor, Batch], Any] | None = None
) -> Batch:
    """A test example of `workload` as a batch.

    Errors: no such example; one whose values(theta, batch) [test, ...] (its loss, unless given) depend on the
    others, so that nothing is defined of it alone. That is looked at once a model, and only where values have
    a row for each example.
    """
    test, known = workload.test, _ALONE.setdefault(workload.model, set())
    count = workload.n_test
    if not 0 <= example < count:
        raise InputError(f"{query}: example {example} is not in the test set, which has 0 to {count - 1}")
    if (query, count, example) not in known:
        rows = [example, *(j for j in range(min(_FEW, count)) if j != example)]
        some = select(test, torch.tensor(rows, device=workload.device))
        here = partial(values or workload.losses, workload.theta0)
        if _by_row(here, some) and not own_losses(here, some, first_only=True):
            raise InputError(
                f"{query}: what the model gives for test example {example} depends on the other test "
                "examples, as with batch statistics in evaluation mode, so nothing is defined of it alone; "
                "use test-loss, or layers with running statistics"
            )
        known.add((query, count, example))
    return select(test, torch.tensor([example], device=workload.device))


def _by_row(values: Callable[[Batch], Any], batch: Batch) -> bool:
    """Whether values of twice the examples are twice the rows."""
    first = tensors_of(batch)[0]
    rows = torch.arange(len(first), device=first.device)
    with torch.no_grad():
        once, twice = values(batch), values(select(batch, torch.cat([rows, rows])))
    if not (isinstance(once, Tensor) and isinstance(twice, Tensor) and once.dim() and twice.dim()):
        return False
    return len(once) == len(rows) and len(twice) == 2 * len(rows)


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
