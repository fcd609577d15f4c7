"""Is a replay what was recorded? One measure of the difference between two states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from influencekit.training.state import State

__all__ = ["Difference", "differences"]


class Difference(NamedTuple):
    """Where a replay is not the record: `theta`, a slot or a buffer; `gap` is the relative size."""

    kind: str  # "parameter", "optimizer state" or "buffer"
    name: str
    gap: float
    values: Tensor


def differences(before: Callable[[], Tensor], replayed: State, recorded: State) -> Iterator[Difference]:
    """Everything that is not equal bit for bit.

    Parameters are off relative to their update from `before()`, optimizer states and buffers relative to
    their size; whole numbers are either equal or infinitely off.
    """
    if not torch.equal(replayed.theta, recorded.theta):
        values = replayed.theta - recorded.theta
        yield Difference("parameter", "theta", _ratio(values, recorded.theta - before()), values)
    for kind, mine, theirs in (
        ("optimizer state", replayed.slots, recorded.slots),
        ("buffer", replayed.buffers, recorded.buffers),
    ):
        for name, value in theirs.items():
            if not torch.equal(mine[name], value):
                values = mine[name].double() - value.double()
                gap = _ratio(values, value) if value.is_floating_point() else float("inf")
                yield Difference(kind, name, gap, values)


def _ratio(part: Tensor, whole: Tensor) -> float:
    """The size of one vector in units of another's."""
    return float(part.double().norm() / whole.double().norm().clamp(min=torch.finfo(part.dtype).tiny))
