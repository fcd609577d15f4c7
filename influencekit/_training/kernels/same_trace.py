"""Whether what was traced of one seed's run may serve another's, so that it need not be traced again."""

from typing import Any

import torch
from torch import Tensor, nn

from influencekit._training.batch import tensors_of
from influencekit._training.workload import Workload

__all__ = ["same_trace"]


def same_trace(one: Workload, other: Workload) -> bool:
    """Whether nothing but examples, plan, optimizer and theta0 differ, as far as can be seen from outside: a
    number in a closure or a branch in forward shows in the losses alone."""
    if _words(one) != _words(other):
        return False
    mine, others = _constants(one), _constants(other)
    return mine.keys() == others.keys() and all(torch.equal(mine[k], others[k]) for k in mine)


def _words(workload: Workload) -> tuple[Any, ...]:
    loss, tensors = workload.loss, tensors_of(workload.train)
    return (
        workload.layout, repr(workload.model), repr(loss) if isinstance(loss, nn.Module) else loss,
        workload.l2, workload.dtype, workload.device, type(workload.train), workload.target_key,
        *((x.shape[1:], x.dtype) for x in tensors),
    )  # fmt: skip


def _constants(workload: Workload) -> dict[str, Tensor]:
    found = workload.model.state_dict() | dict(workload.model.named_buffers())
    found = {k: x for k, x in found.items() if k not in workload.layout.names}
    loss = workload.loss.state_dict() if isinstance(workload.loss, nn.Module) else {}
    return found | {f"loss {k}": x for k, x in loss.items()}
