"""The noun Average: which states of a run the model is made of that queries are asked of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor

from influencekit._arguments import check_options

if TYPE_CHECKING:
    from influencekit._trajectory.trajectory import Trajectory

__all__ = ["Average"]


class Average(ABC):
    """An average of the states of a run, sum_t w_t theta_t with sum_t w_t = 1, of which queries are asked.

    Attribute `use_buffers`: whether buffers that training changes (running statistics) are averaged with the
    same weights, as by `AveragedModel(use_buffers=True)`; if not, they are those of the last state that
    counts, as torch keeps them.

    Example:

        >>> import influencekit as ik
        >>> import torch
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class FirstAndLast(ik.Average):
        ...     def weights(self, trajectory):
        ...         w = torch.zeros(trajectory.steps + 1)
        ...         w[0] = w[-1] = 0.5
        ...         return w
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> ik.estimate(run, average=FirstAndLast()).average_states
        '2 states, 0 to 2'
    """

    use_buffers: bool = False

    __post_init__ = check_options  # of subclasses that are dataclasses: their options are what they say

    @abstractmethod
    def weights(self, trajectory: Trajectory) -> Tensor:
        """The weights [state] of the states 0 ... T, which sum to 1; 0 for a state that does not count.

        Errors: `InputError` for a run that has no such average.
        """
