"""What a training step changes."""

from typing import NamedTuple

from torch import Tensor

from influencekit.training.optimizer import Slots

__all__ = ["State"]


class State(NamedTuple):
    """What a step changes: theta [param], the optimizer's slots [param] each, the number of steps done.

    `buffers` holds those of the model's buffers that training changes, by name.
    """

    theta: Tensor
    slots: Slots
    step: int
    buffers: dict[str, Tensor] = {}  # noqa: RUF012 (a named tuple's default, never modified)
