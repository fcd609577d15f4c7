"""What the parts of a workload must be, seen when it is made."""

import json
from typing import Any

from torch import Tensor

from influencekit._arguments import check_options, check_seed, real_number, short, whole_number
from influencekit._tensors import tensor_problem
from influencekit._training.batch import Batch, tensors_of
from influencekit._training.optimizer import Optimizer
from influencekit._training.schedules import Schedule
from influencekit.errors import InputError

__all__ = ["check_set", "check_settings"]


def check_settings(workload: Any) -> None:
    """Refuse what is no number, optimizer, schedule or loss where one is expected; numbers become plain.

    `info` is written into stores and results, so it must be JSON.
    """
    check_options(workload, "Workload")
    whole_number("epochs", workload.epochs, 1)
    whole_number("batch_size", workload.batch_size, 1)
    check_seed("seed", workload.seed)
    real_number("l2", workload.l2, 0)
    if not isinstance(workload.optimizer, Optimizer):
        raise InputError(
            f"optimizer: expected one of influencekit's, such as SGD(lr=0.1), got {short(workload.optimizer)}"
        )
    if not isinstance(workload.schedule, Schedule):
        raise InputError(f"schedule: expected one such as Cosine(), got {short(workload.schedule)}")
    if not callable(workload.loss) or isinstance(workload.loss, type):
        raise InputError(
            f"loss: expected a function loss(outputs, target) -> [n] or a module, got {short(workload.loss)}"
        )
    try:
        json.dumps(dict(workload.info))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"info: expected a dict of texts and numbers, got {short(workload.info)} ({error})"
        ) from None


def check_set(name: str, batch: Batch, target_key: str) -> int:
    """How many examples a training or test set has. Errors: no tensors, different lengths, no target."""
    if not isinstance(batch, Tensor | tuple | list | dict):
        raise InputError(
            f"{name}: expected a tensor, a tuple (inputs..., target) or a dict of tensors, got {short(batch)}"
        )
    tensors = tensors_of(batch)
    for x in tensors:
        if problem := tensor_problem(x):
            raise InputError(f"{name}: expected tensors, {problem}")
    lengths = {len(x) if x.dim() else 0 for x in tensors}
    if len(lengths) != 1 or 0 in lengths:
        sizes = [tuple(x.shape) for x in tensors]
        raise InputError(
            f"{name}: inputs and labels must have the same number of examples in their first "
            f"dimension, and at least one; got shapes {sizes}"
        )
    if isinstance(batch, dict) and target_key not in batch:
        raise InputError(
            f"{name}: no entry {target_key!r} for the target; it has "
            f"{', '.join(batch)}. Name it with target_key=..."
        )
    return lengths.pop()
