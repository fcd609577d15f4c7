"""How a batch becomes a model's outputs, and these become losses."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from influencekit._training.batch import Batch, require_test
from influencekit._training.loss_by_part import Parts, as_parts, one_number
from influencekit.errors import InputError

__all__ = [
    "Call", "Calls", "Loss", "arguments", "one_each", "parts_of", "sees_batch", "target_of", "values_of",
]  # fmt: skip

Loss = Callable[..., Any]  # a Tensor [batch], or Parts
"""`loss(outputs, target)`, or `loss(outputs, target, batch=batch)` where it has a parameter of that name."""


class Calls(Protocol):
    """The same for training, replay, queries and derivatives."""

    def outputs(self, model: nn.Module, batch: Any) -> Any:
        """The model's outputs on a batch."""

    def target(self, batch: Any) -> Any:
        """What the loss compares the outputs with; None where it takes that from the batch itself."""

    def losses(self, outputs: Any, batch: Any, count: int) -> Tensor:
        """Per-example losses [count] of given outputs. Errors: another shape."""

    def parts(self, outputs: Any, batch: Any) -> Parts:
        """The losses of the examples' parts. Errors: a loss that does not tell parts apart."""


@dataclass(frozen=True)
class Call:
    """The convention of a `Workload`: a batch is a tensor (input and target), a tuple (inputs..., target), or
    a dict whose `target_key` entry is the target and whose other entries are keyword arguments."""

    loss: Loss
    target_key: str

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        """The model's outputs on a batch."""
        args, kwargs = arguments(batch, self.target_key)
        return model(*args, **kwargs)

    def target(self, batch: Batch) -> Any:
        """What the loss compares the outputs with; None where it takes that from the batch itself."""
        return target_of(batch, self.target_key, self.loss)

    def losses(self, outputs: Any, batch: Batch, count: int) -> Tensor:
        """Per-example losses [count] of given outputs, their parts added up; other shapes are refused."""
        return one_each(values_of(self.loss, outputs, self.target(batch), batch), count)

    def parts(self, outputs: Any, batch: Batch) -> Parts:
        """The losses of the examples' parts. Errors: a loss that does not tell parts apart."""
        return parts_of(self.loss, outputs, self.target(batch), batch)


_SEES_BATCH: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # reading a signature takes a while


def sees_batch(loss: Loss) -> bool:
    """Whether a loss has a parameter `batch` besides the two of outputs and target."""
    try:
        if loss not in _SEES_BATCH:
            _SEES_BATCH[loss] = _sees_batch(loss)
        return _SEES_BATCH[loss]
    except TypeError:  # it cannot be weakly referenced, or hashed
        return _sees_batch(loss)


def _sees_batch(loss: Loss) -> bool:
    try:
        function = type(loss).forward if isinstance(loss, nn.Module) else loss
        names = list(inspect.signature(function).parameters.values())[isinstance(loss, nn.Module) :]
    except (TypeError, ValueError):  # builtins
        return False
    return any(p.name == "batch" and (k > 1 or p.kind is p.KEYWORD_ONLY) for k, p in enumerate(names))


def values_of(loss: Loss, outputs: Any, target: Any, batch: Any) -> Any:
    """What a loss gives: `loss(outputs, target)`, and the batch where it has a parameter of that name. Parts
    are added up."""
    return one_number(_asked(loss, outputs, target, batch))


def parts_of(loss: Loss, outputs: Any, target: Any, batch: Any) -> Parts:
    """The same by part; a loss that gives one number an example may have a method `parts` for it. Errors: a
    loss that does not tell parts apart."""
    own = getattr(loss, "parts", None)
    return as_parts(_asked(own if inspect.ismethod(own) else loss, outputs, target, batch))


def _asked(loss: Loss, outputs: Any, target: Any, batch: Any) -> Any:
    return loss(outputs, target, batch=batch) if sees_batch(loss) else loss(outputs, target)


def target_of(batch: Any, target_key: str, loss: Loss) -> Any:
    """The target in a batch: itself, the last of a tuple, or an entry of a dict, where a loss that sees the
    batch can do without. Errors: no such entry."""
    require_test(batch)
    if not isinstance(batch, Mapping):
        return batch[-1] if isinstance(batch, list | tuple) else batch
    if target_key not in batch and not sees_batch(loss):
        raise InputError(
            f"the batch has no entry {target_key!r} for the target; it has {', '.join(batch)}; name it with "
            "target_key=..., or let loss(outputs, target, batch) take it from the batch"
        )
    return batch.get(target_key)


def arguments(batch: Any, target_key: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a model is called with: all of a batch but its target, or the tensor that it is."""
    require_test(batch)
    if isinstance(batch, Mapping):
        return (), {k: v for k, v in batch.items() if k != target_key}
    return (tuple(batch[: max(1, len(batch) - 1)]) if isinstance(batch, list | tuple) else (batch,)), {}


def one_each(losses: Any, count: int) -> Tensor:
    """Losses that are one value per example. Errors: anything else."""
    if not isinstance(losses, Tensor) or losses.shape != (count,):
        got = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise InputError(
            f"the loss must return one value per example, shape [{count}], got {got}; use "
            'reduction="none" and reduce over everything but the examples, or return ik.Parts'
        )
    if not losses.is_floating_point():
        raise InputError(f"the loss must return real numbers in floating point, got {losses.dtype}")
    return losses
