"""Whether what was traced of one seed's step serves another's, so that it need not be traced again."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from influencekit.training.batch import tensors_of
from influencekit.training.workload import Workload

if TYPE_CHECKING:
    from influencekit.training.step import Step

__all__ = ["same_trace"]


def same_trace(one: "Step", other: "Step") -> bool:
    """Whether what was traced of `one` serves `other`: nothing but examples, plan and theta0 may differ."""

    def words(workload: Workload) -> tuple[Any, ...]:
        loss, tensors = workload.loss, tensors_of(workload.train)
        return (
            workload.layout, repr(workload.model), repr(loss) if isinstance(loss, nn.Module) else loss,
            workload.l2, workload.dtype, workload.device, type(workload.train), workload.target_key,
            *((x.shape[1:], x.dtype) for x in tensors),
        )  # fmt: skip

    def constants(workload: Workload) -> dict[str, Tensor]:
        found = workload.model.state_dict() | dict(workload.model.named_buffers())
        found = {k: x for k, x in found.items() if k not in workload.layout.names}
        loss = workload.loss.state_dict() if isinstance(workload.loss, nn.Module) else {}
        return found | {f"loss {k}": x for k, x in loss.items()}

    if words(one.workload) != words(other.workload):
        return False
    mine, others = constants(one.workload), constants(other.workload)
    if mine.keys() != others.keys() or not all(torch.equal(mine[k], others[k]) for k in mine):
        return False
    # what cannot be seen from outside: a number in a closure, a branch in forward
    theta, batch, mean = other.workload.theta0, other.batch(0), other.coefficients(0)
    with torch.no_grad():
        here = other.training({}).losses(theta, batch)
        there = one._gradient(theta, batch, mean)(theta, *tensors_of(batch), mean)[1]
    return torch.allclose(here, there, rtol=1e-5, atol=1e-7, equal_nan=True)
