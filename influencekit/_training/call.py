"""How a batch becomes a model's outputs, and these become losses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from influencekit._training.batch import Batch, require_test
from influencekit.errors import InputError

__all__ = ["Call", "Calls", "arguments", "one_each"]


class Calls(Protocol):
    """The same for training, replay, queries and derivatives."""

    def outputs(self, model: nn.Module, batch: Any) -> Any:
        """The model's outputs on a batch."""

    def target(self, batch: Any) -> Any:
        """What the loss compares the outputs with."""

    def losses(self, outputs: Any, batch: Any, count: int) -> Tensor:
        """Per-example losses [count] of given outputs. Errors: another shape."""


@dataclass(frozen=True)
class Call:
    """The convention of a `Workload`: a batch is a tensor (input and target), a tuple (inputs..., target), or
    a dict whose `target_key` entry is the target and whose other entries are keyword arguments."""

    loss: Callable[[Any, Any], Tensor]
    target_key: str

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        """The model's outputs on a batch."""
        args, kwargs = arguments(batch, self.target_key)
        return model(*args, **kwargs)

    def target(self, batch: Batch) -> Any:
        """What the loss compares the outputs with."""
        require_test(batch)
        if isinstance(batch, dict):
            return batch[self.target_key]
        return batch if isinstance(batch, Tensor) else batch[-1]

    def losses(self, outputs: Any, batch: Batch, count: int) -> Tensor:
        """Per-example losses [count] of given outputs; one dimension per token and the like is refused."""
        return one_each(self.loss(outputs, self.target(batch)), count)


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
            'reduction="none" and reduce over everything but the examples'
        )
    return losses
