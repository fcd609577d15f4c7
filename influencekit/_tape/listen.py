"""The hooks by which a tape hears what a loop does with its model and its optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from influencekit._signals import deferred
from influencekit._tape.checks.arguments import refuse_parallel
from influencekit._tape.hooks import Hook
from influencekit._tape.step_collector import StepCollector
from influencekit._tape.unwrap import model_behind, watch_forward

__all__ = ["listen"]


def listen(
    called: nn.Module, optimizer: torch.optim.Optimizer, steps: StepCollector, group: Any, *,
    before_step: Callable[..., None], after_step: Callable[[], None],
    copied: Callable[[], None], loading: Callable[[bool], None],
) -> list[Callable[[], None]]:  # fmt: skip
    """Listen to the model that the loop calls, and to its optimizer. Returns what ends it.

    `copied()`: the weights may be kept somewhere; `loading(optimizer)`: others are about to be loaded.
    """
    model, whole_step = model_behind(called), deferred()(after_step)

    def before(optimizer: torch.optim.Optimizer, *given: Any) -> None:
        refuse_parallel(group)  # a process group may have been made since the tape was opened
        before_step(*given)

    handles = [
        optimizer.register_step_pre_hook(Hook(before)),
        optimizer.register_step_post_hook(Hook(lambda *event: whole_step())),
        model.register_state_dict_pre_hook(Hook(lambda *event: copied())),
        model.register_load_state_dict_pre_hook(Hook(lambda *event: loading(False))),
        optimizer.register_load_state_dict_pre_hook(Hook(lambda *event: loading(True))),
    ]
    compiled = called is not model or any(
        getattr(m, "_compiled_call_impl", None) is not None for m in model.modules()
    )
    if steps.call.forward is not None and not compiled:  # it may run a method, or modules inside the model
        inside: list[Any] = [m for m in model.modules() if m is not model]
        handles += [m.register_forward_pre_hook(Hook(lambda *event: steps.inside())) for m in inside]
    watched = watch_forward(
        called,
        lambda *given: steps.before_forward(*given),
        lambda outputs: steps.after_forward(outputs),
        copied,
    )
    return [*watched, *(handle.remove for handle in handles)]
