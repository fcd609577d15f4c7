from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from influencekit.errors import InputError
from influencekit.interfaces import Query
from influencekit.workload import Workload

__all__ = ["FixedVector", "Parameter"]


@dataclass(frozen=True)
class Parameter(Query):
    """One trainable parameter itself. First-order estimators give its change without any error of the query.

    `index` counts into the tensor called `name`, one number a dimension (as text:
    `parameter:name=1.weight:index=0+3`); without a name it is the position in the flat vector theta.
    """

    name: str | None = None
    index: tuple[int, ...] = (0,)

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        self._position(workload)
        return [f"{self.name or 'theta'}[{','.join(map(str, self.index))}]"]

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        position = self._position(workload)
        return theta[position : position + 1]

    def _position(self, workload: Workload) -> int:
        if self.name is not None:
            return workload.layout.find(self.name, self.index)
        if len(self.index) != 1 or not 0 <= self.index[0] < workload.n_params:
            raise InputError(
                f"parameter: without a name, index is one position in 0 to {workload.n_params - 1}; "
                f"got {list(self.index)}"
            )
        return self.index[0]


@dataclass(frozen=True, eq=False)
class FixedVector(Query):
    """Projections <v, theta> on given directions: `vector` is [param] or [query, param]. Python only."""

    vector: Tensor

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        if self.vector.dim() not in (1, 2) or self.vector.shape[-1] != workload.n_params:
            raise InputError(
                f"vector: expected shape [{workload.n_params}] or [query, {workload.n_params}], "
                f"got {list(self.vector.shape)}"
            )
        return [f"vector[{i}]" for i in range(len(torch.atleast_2d(self.vector)))]

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        return torch.atleast_2d(self.vector).to(theta) @ theta
