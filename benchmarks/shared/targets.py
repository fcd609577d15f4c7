"""Other targets for a workload's training examples."""

from dataclasses import replace

from torch import Tensor

import influencekit as ik


def target_of(work: ik.Workload) -> Tensor:
    """The targets [train, ...]."""
    return work.train[work.target_key] if isinstance(work.train, dict) else work.train[-1]


def with_target(work: ik.Workload, target: Tensor) -> ik.Workload:
    """The workload with these targets."""
    if isinstance(work.train, dict):
        return replace(work, train={**work.train, work.target_key: target})
    return replace(work, train=(*work.train[:-1], target))
