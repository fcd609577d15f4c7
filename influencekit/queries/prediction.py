from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from influencekit.errors import InputError
from influencekit.interfaces import Query
from influencekit.workload import Workload, select

__all__ = ["Prediction"]


@dataclass(frozen=True)
class Prediction(Query):
    """One output of the model for one test example: a logit, or whatever the model returns.

    `example` is its position in the test set, `output` the class for models with several outputs.
    """

    example: int = 0
    output: int = 0

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        if not 0 <= self.example < workload.n_test:
            raise InputError(
                f"prediction: example {self.example} is not in the test set, which has 0 to "
                f"{workload.n_test - 1}"
            )
        outputs = workload.outputs(workload.theta0, self._example(workload))
        width = outputs.numel() if isinstance(outputs, Tensor) else 0
        if not 0 <= self.output < width:
            raise InputError(
                f"prediction: output {self.output} is not one of the model's {width} outputs for an example"
            )
        return [f"prediction[{self.example},{self.output}]"]

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        return workload.outputs(theta, self._example(workload)).reshape(-1)[self.output : self.output + 1]

    def _example(self, workload: Workload):
        return select(workload.test, torch.tensor([self.example], device=workload.device))
