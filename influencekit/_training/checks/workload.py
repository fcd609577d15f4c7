"""What the parts of a workload must be, seen when it is made."""

from typing import Any

from torch import Tensor

from influencekit._training.batch import Batch, tensors_of
from influencekit._training.optimizer import Optimizer
from influencekit.errors import InputError

__all__ = ["check_set", "check_settings"]


def check_settings(counts: dict[str, Any], optimizer: Any, l2: float) -> None:
    """Refuse whole numbers that are none, and what is no optimizer; `counts`: epochs, batch_size and seed."""
    for name, value in counts.items():
        if not isinstance(value, int):
            raise InputError(f"{name} must be a whole number, got {value!r}")
    if counts["epochs"] < 1 or counts["batch_size"] < 1:
        raise InputError(
            f"epochs and batch_size must be at least 1, got {counts['epochs']} and {counts['batch_size']}"
        )
    if not isinstance(optimizer, Optimizer):
        raise InputError(
            f"optimizer: expected one of influencekit's, such as SGD(lr=0.1), got {optimizer!r:.60}"
        )
    if l2 < 0:
        raise InputError(f"l2 must be at least 0, got {l2}")


def check_set(name: str, batch: Batch, target_key: str) -> int:
    """How many examples a training or test set has. Errors: no tensors, different lengths, no target."""
    tensors = tensors_of(batch)
    if wrong := [x for x in tensors if not isinstance(x, Tensor)]:
        raise InputError(
            f"{name}: expected tensors, got {type(wrong[0]).__name__}; torch.as_tensor makes them"
        )
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
