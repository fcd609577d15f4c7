from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from influencekit.gradients import example_gradients
from influencekit.interfaces import Query
from influencekit.separability import own_losses
from influencekit.workload import Workload

__all__ = ["TestLoss", "TestLosses"]


@dataclass(frozen=True)
class TestLoss(Query):
    """Mean loss over the test set, without the L2 penalty. A positive effect: the example helped."""

    __test__ = False  # not a pytest class
    better = "lower"

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        return ["test-loss"]

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        return workload.losses(theta, workload.test).mean(0, keepdim=True)


@dataclass(frozen=True)
class TestLosses(Query):
    """Loss of every single test example, one query each, without the L2 penalty."""

    __test__ = False
    better = "lower"

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        return list(workload.test_ids or range(workload.n_test))

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        return workload.losses(theta, workload.test)

    def gradient(self, workload: Workload, theta: Tensor) -> Tensor:
        """[query, param]; each from its own example alone, which costs one pass over the test set."""
        if workload.test is None or not own_losses(partial(workload.losses, theta), workload.test):
            return super().gradient(workload, theta)
        return example_gradients(workload, theta, workload.test)
