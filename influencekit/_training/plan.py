"""What a run does when: its batches, learning rates and epochs."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from influencekit._tensors import real_tensor
from influencekit._training.schedules import Schedule
from influencekit.errors import InputError

__all__ = ["Plan", "drawn", "factors_of", "ordered", "planned"]

_LARGEST = 1 << 28  # places of examples in the batches of a run: 2 GiB


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run does when: the batches, the learning rates, the epochs.

    indices: [step, slot] positions in the training set, -1 where a short batch has no example;
    lr: [step, group] float64; epoch: [step]; coefficient: [step, slot] derivative of the step's loss by each
    example's loss, None = 1/b; updates: how many the optimizer had made before step 0. settings: where
    hyper-parameters other than the learning rate change, the first step and the values of every group.

    Example:

        >>> import influencekit as ik
        >>> plan = ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2").plan
        >>> plan.steps, plan.batch(0).shape, len(plan.lrs(0))
        (2, torch.Size([24]), 1)
    """

    indices: Tensor
    lr: Tensor
    epoch: Tensor
    coefficient: Tensor | None = None
    updates: int = 0
    settings: tuple[tuple[int, Sequence[Mapping[str, Any]]], ...] = ()

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.indices)

    def batch(self, t: int) -> Tensor:
        """Positions of the examples of step t, [b]."""
        row = self.indices[t]
        return row[row >= 0]

    def lrs(self, t: int) -> list[float]:
        """The learning rate of every parameter group at step t."""
        return self.lr[t].tolist()

    def changes(self, t: int) -> int:
        """How many of `settings` have come into force at step t."""
        return bisect_right(self.settings, t, key=lambda change: change[0])


def ordered(order: Tensor, n: int, epochs: int) -> tuple[Tensor, Tensor]:
    """(positions [step, slot], epoch [step]) of an order that the user gives for n examples."""
    indices = real_tensor("order", order)
    if indices.dim() != 2 or not indices.numel() or indices.is_floating_point():
        raise InputError(
            f"order must be whole numbers [step, slot], got {indices.dtype} {list(indices.shape)}"
        )
    indices = indices.to("cpu", torch.int64)
    if bool((indices >= n).any()) or bool((indices < -1).any()):
        raise InputError(f"order must be [step, slot] positions below {n}, or -1 for an empty slot")
    per_epoch = -(-n // indices.shape[1]) if epochs == 1 else len(indices) // epochs
    if epochs > 1 and len(indices) % epochs:
        raise InputError(f"order: {len(indices)} steps are not {epochs} equal epochs; leave epochs out")
    _check_batches(indices)
    return indices, torch.arange(len(indices)) // per_epoch


def planned(n: int, batch_size: int, epochs: int, drop_last: bool) -> tuple[int, int]:
    """How many steps and slots `drawn` gives, before anything is drawn."""
    return epochs * (n // batch_size if drop_last else -(-n // batch_size)), batch_size


def drawn(
    n: int, batch_size: int, epochs: int, generator: torch.Generator | None, drop_last: bool
) -> tuple[Tensor, Tensor]:
    """The same in an order drawn anew every epoch, or as the examples stand without a `generator`."""
    per_epoch = planned(n, batch_size, 1, drop_last)[0]
    if epochs * max(per_epoch * batch_size, n) > _LARGEST:
        raise InputError(
            f"{epochs} epochs of {n} examples in batches of {batch_size} have "
            f"{epochs * per_epoch * batch_size} places for examples, and a plan has at most {_LARGEST}; use "
            "smaller ones"
        )
    if per_epoch == 0:
        raise InputError(
            f"drop_last leaves no batch: {n} examples in batches of {batch_size}; use a smaller batch_size"
        )
    rows = []
    for _ in range(epochs):
        order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
        padded = torch.full((max(per_epoch * batch_size, n),), -1)
        padded[:n] = order
        rows.append(padded[: per_epoch * batch_size].view(per_epoch, batch_size))
    indices = torch.cat(rows)
    _check_batches(indices)
    return indices, torch.arange(epochs).repeat_interleave(per_epoch)


def factors_of(schedule: Schedule, steps: int) -> Tensor:
    """A schedule's factors [step]. Errors: another number of them, or no finite numbers."""
    found = real_tensor(f"{type(schedule).__name__}.factors", schedule.factors(steps)).to(
        "cpu", torch.float64
    )
    if found.shape != (steps,) or not bool(found.isfinite().all()):
        raise InputError(
            f"{type(schedule).__name__}.factors: expected {steps} finite numbers, one a step, got shape "
            f"{list(found.shape)}, {int((~found.isfinite()).sum())} of them NaN or infinite"
        )
    return found


def _check_batches(indices: Tensor) -> None:
    top = indices.max(1).values
    alone = ((indices == top[:, None]) | (indices < 0)).all(1).nonzero()
    if len(alone):
        t = int(alone[0])
        if top[t] < 0:
            raise InputError(f"the batch of step {t} holds no example at all")
        raise InputError(
            f"the batch of step {t} holds only the example at position {int(top[t])}: without it the "
            "step would have no batch at all; use another batch_size, or drop_last=True"
        )
