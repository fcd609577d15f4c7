from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from influencekit.gradients import rows_of_jacobian
from influencekit.interfaces import Query
from influencekit.workload import Workload

__all__ = ["GradientAlignment"]


@dataclass(frozen=True)
class GradientAlignment(Query):
    """Movement along the unit gradient of the mean test loss, <u_t, theta>, u_t fixed by the recorded run.

    A positive effect: without the example the model would stand further up the loss's slope, so the example
    helped.
    """

    better = "lower"

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        return ["alignment"]

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        return self.at(workload, theta)(theta)

    def at(self, workload: Workload, theta: Tensor) -> Callable[[Tensor], Tensor]:

        def mean_loss(x: Tensor) -> Tensor:
            return workload.losses(x, workload.test).mean()

        try:
            slope = rows_of_jacobian(lambda x: mean_loss(x)[None], theta)[0]
        except RuntimeError:  # inside a transform of torch.func, which has a gradient of its own
            slope = torch.func.grad(mean_loss)(theta)
        unit = slope / slope.norm().clamp(min=torch.finfo(slope.dtype).tiny)
        return lambda moved: (unit @ moved)[None]
