"""Hooks on a model and its optimizer, by which a tape sees forward passes and steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from influencekit.errors import InputError

__all__ = ["register_hooks"]


def register_hooks(
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
