"""The gradient of the mean test loss by several ranks together: each takes a block of the test set."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial

import torch
from torch import Tensor

from influencekit._training.batch import mapped
from influencekit._training.checks.separability import own_losses
from influencekit._training.ranks import Ranks
from influencekit._training.state import State
from influencekit._training.workload import Workload
from influencekit.interfaces import Query
from influencekit.queries import TestLoss

__all__ = ["block_of_test", "together"]

Gradient = Callable[[State], tuple[Tensor, Tensor]]


def block_of_test(workload: Workload, query: Query, ranks: Ranks) -> tuple[Workload, float] | None:
    """The workload with this rank's block of the test set, and the block's part of the whole; None where the
    query is no mean over the test set, or an example's loss is not its own."""
    if type(query) is not TestLoss or workload.test is None or workload.n_test < ranks.size:
        return None
    if not own_losses(partial(workload.losses, workload.theta0), workload.test):
        return None
    block, mine = ranks.block(workload.n_test), copy(workload)
    some = block if block.start < block.stop else slice(0, 1)
    object.__setattr__(mine, "test", mapped(workload.test, lambda x: x[some]))
    return mine, (block.stop - block.start) / workload.n_test


def together(gradient: Gradient, part: float, ranks: Ranks) -> Gradient:
    """The sum of the ranks' gradients, each times its block's part of the test set."""

    def summed(state: State) -> tuple[Tensor, Tensor]:
        by_theta, by_buffers = gradient(state)
        return ranks.summed(torch.mul(by_theta, part)), by_buffers

    return summed
