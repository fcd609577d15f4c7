"""What a tape sees of a model and its optimizer while a loop runs: forwards, steps, and edits in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from influencekit.errors import InputError

__all__ = ["Marks", "refuse_hooks", "watch"]

_SAMPLE = 512  # entries of a parameter that are watched; of a smaller one, all


class Marks:
    """Samples of the parameters, to see whether anything but the optimizer changes them.

    Cost: two small copies a step. An edit of few entries of a large parameter may escape it, not the replay.
    """

    def __init__(self, tensors: Callable[[], Mapping[str, Tensor]]) -> None:
        self._tensors = tensors
        self._last: Tensor | None = None
        self._memory: list[int] = []  # where the tensors were
        self._cut: list[Tensor] = []  # what is watched of them

    def take(self) -> None:
        """Remember the tensors as they are."""
        self._last = self._sample()

    def changed(self) -> str | None:
        """The name of a tensor that is not as remembered, if there is one."""
        if self._last is None or not len(self._last):
            return None
        now = self._sample()
        if torch.equal(now, self._last):
            return None
        lengths = [len(x) for x in self._cut]
        pairs = zip(now.split(lengths), self._last.split(lengths), strict=True)
        moved = [not torch.equal(a, b) for a, b in pairs]
        return list(self._tensors())[moved.index(True)]

    def finite(self) -> bool:
        """Whether what is remembered is finite, and so is its sum."""
        return self._last is None or math.isfinite(float(self._last.sum()))

    def _sample(self) -> Tensor:
        tensors = self._tensors().values()
        if not tensors:
            return torch.zeros(0)
        memory = [x.data_ptr() for x in tensors]
        if memory != self._memory:
            flat = [x.detach().reshape(-1) for x in tensors]
            self._cut = [x[:: max(1, len(x) // _SAMPLE)] for x in flat]
            self._memory = memory if all(x.is_contiguous() for x in tensors) else []  # else copies
        return torch.cat(self._cut)


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    forward: Callable[[], None],
    after: Callable[[Any], None],
    before_step: Callable[[], None],
    after_step: Callable[[], None],
) -> list[Any]:
    """Call back at every forward (with gradients) and optimizer step; the handles have `remove`."""

    def pre_forward(module: nn.Module, args: Any) -> None:
        if torch.is_grad_enabled():
            forward()

    def post_forward(module: nn.Module, args: Any, outputs: Any) -> None:
        if torch.is_grad_enabled():
            after(outputs)

    def pre_step(self: Any, args: Any, kwargs: Any) -> None:
        if any(a is not None for a in (*args[1:], kwargs.get("closure"))):  # args[0] is the optimizer
            raise InputError("optimizer.step(closure) cannot be recorded; call backward, then step()")
        before_step()

    def post_step(self: Any, args: Any, kwargs: Any) -> None:
        after_step()

    return [
        model.register_forward_pre_hook(pre_forward),
        model.register_forward_hook(post_forward),
        optimizer.register_step_pre_hook(pre_step),
        optimizer.register_step_post_hook(post_step),
    ]


def refuse_hooks(model: nn.Module) -> None:
    """Refuse hooks that may change gradients, by the name of what they hang on."""
    for name, p in model.named_parameters():
        if getattr(p, "_backward_hooks", None) or getattr(p, "_post_accumulate_grad_hooks", None):
            raise InputError(
                f"parameter {name} has a gradient hook, which a replay would not see; remove it, or do what "
                "it does in the loss"
            )
    for name, module in model.named_modules():
        if module._backward_hooks or module._backward_pre_hooks:
            raise InputError(
                f"module {name or type(module).__name__} has a backward hook, which derivatives would not "
                "see; remove it"
            )
