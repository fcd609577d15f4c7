"""What a training step changes."""

from typing import NamedTuple

from torch import Tensor

from influencekit._training.optimizer import Slots

__all__ = ["State"]


class State(NamedTuple):
    """What a step changes: theta [param], the optimizer's slots [param] each, the number of steps done.

    `buffers` holds those of the model's buffers that training changes, by name.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> run.state(1).step, run.final.theta.shape, run.final.slots
        (1, torch.Size([785]), {})
    """

    theta: Tensor
    slots: Slots
    step: int
    buffers: dict[str, Tensor] = {}  # noqa: RUF012 (a named tuple's default, never modified)

    def copied(self) -> "State":
        """The same in tensors of its own."""
        return State(
            self.theta.clone(),
            {name: x.clone() for name, x in self.slots.items()},
            self.step,
            {name: x.clone() for name, x in self.buffers.items()},
        )
