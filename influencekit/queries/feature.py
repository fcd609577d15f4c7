from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from influencekit.errors import InputError
from influencekit.interfaces import Query
from influencekit.workload import Batch, Workload, select, tensors_of

__all__ = ["FeatureImportance"]


@dataclass(frozen=True)
class FeatureImportance(Query):
    """Derivative of one test example's loss by one of its input features: d loss / d x_k.

    The effect says how the model's reliance on that feature would change (Theorem 6; its gradient in theta
    is the mixed second derivative). `feature` counts into the flattened first floating-point input.
    """

    example: int = 0
    feature: int = 0

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        if not 0 <= self.example < workload.n_test:
            raise InputError(
                f"feature-importance: example {self.example} is not in the test set, which has 0 to "
                f"{workload.n_test - 1}"
            )
        size = self._input(self._example(workload)).numel()
        if not 0 <= self.feature < size:
            raise InputError(
                f"feature-importance: feature {self.feature} is not one of the input's {size} features"
            )
        return [f"d loss[{self.example}] / d x[{self.feature}]"]

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        example = self._example(workload)
        image = self._input(example)

        def loss(changed: Tensor) -> Tensor:
            def put(x: Tensor) -> Tensor:
                return changed if x is image else x

            if isinstance(example, dict):
                return workload.losses(theta, {k: put(v) for k, v in example.items()}).sum()
            if isinstance(example, Tensor):
                return workload.losses(theta, changed).sum()
            return workload.losses(theta, tuple(put(v) for v in example)).sum()

        return torch.func.grad(loss)(image).reshape(-1)[self.feature : self.feature + 1]

    def _example(self, workload: Workload) -> Batch:
        return select(workload.test, torch.tensor([self.example], device=workload.device))

    def _input(self, example: Batch) -> Tensor:
        for tensor in tensors_of(example):
            if tensor.is_floating_point():
                return tensor
        raise InputError("feature-importance: the model has no floating-point input to differentiate by")
