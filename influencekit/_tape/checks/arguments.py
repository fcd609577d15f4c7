"""What a tape refuses before the loop begins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from influencekit._tape.stream import StreamExamples
from influencekit._training.checks.model import check_model
from influencekit.errors import InputError

__all__ = [
    "check_arguments",
    "check_functions",
    "check_optimizer",
    "refuse_hooks",
    "refuse_parallel",
    "scalers_of",
    "schedulers_of",
]


def check_arguments(
    model: nn.Module, trained: Iterable[Tensor], loss: Any, data: Any, accumulate: int | None, reduction: Any,
    check: float,
) -> None:  # fmt: skip
    """Refuse settings that make no sense, and models that give wrong numbers."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model: expected a torch.nn.Module, got {_kind(model)}")
    if not callable(loss) or isinstance(loss, type):
        raise InputError(
            f"loss: expected a function loss(outputs, target) -> [n] or a module, got {_kind(loss)}"
        )
    if isinstance(data, DataLoader):
        raise InputError("data: got a DataLoader; pass the data set behind it: data=loader.dataset")
    if not (hasattr(data, "__len__") and (hasattr(data, "__getitem__") or isinstance(data, StreamExamples))):
        raise InputError(
            f"data: expected a map-style data set (__len__ and __getitem__), got {type(data).__name__}; pass "
            "data=None for a loop without one"
        )
    check_model(model, trained)
    if accumulate is not None and accumulate < 1:
        raise InputError(f"accumulate must be at least 1 (or None), got {accumulate}")
    if reduction not in ("mean", "sum") if isinstance(reduction, str) else not callable(reduction):
        raise InputError(f"reduction must be 'mean', 'sum' or a function of the batch, got {reduction!r}")
    if not 0 <= check <= 1:
        raise InputError(f"check must be from 0 (no step) to 1 (every step), got {check}")


def check_functions(**given: Any) -> None:
    """Refuse what is given as a function and is none."""
    for name, function in given.items():
        if function is not None and (isinstance(function, type) or not callable(function)):
            raise InputError(f"{name}: expected a function, got {_kind(function)}")


def check_optimizer(optimizer: Any) -> None:
    """Refuse what is no optimizer, or several."""
    if isinstance(optimizer, list | tuple):
        raise InputError(
            f"a tape records one optimizer, and got {len(optimizer)}; give all parameters to one, in groups "
            "of their own, or record what one of them trains, with the rest frozen"
        )
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"optimizer: expected a torch.optim.Optimizer, got {_kind(optimizer)}")


def schedulers_of(given: Any) -> list[Any]:
    """One or more schedulers in a list. Errors: what is none."""
    found = list(given) if isinstance(given, list | tuple) else [given]
    for each in found:
        if isinstance(each, type) or not (hasattr(each, "state_dict") and hasattr(each, "load_state_dict")):
            raise InputError(f"scheduler: expected one of torch.optim.lr_scheduler, got {_kind(each)}")
    return found


def scalers_of(given: Any) -> list[Any]:
    """The scaler, if there is one and it scales. Errors: what is none."""
    if given is None:
        return []
    if isinstance(given, type) or not hasattr(given, "is_enabled"):
        raise InputError(f"scaler: expected a torch.amp.GradScaler, got {_kind(given)}")
    return [given] if given.is_enabled() else []


def _kind(thing: Any) -> str:
    if isinstance(thing, type):
        return f"the class {thing.__name__}"
    return repr(thing) if isinstance(thing, str) else f"a {type(thing).__name__}"


def refuse_parallel(group: Any) -> None:
    """Refuse several processes without a `group`: gradients are averaged where one tape cannot see it."""
    if group is not None:
        return
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        if (count := torch.distributed.get_world_size()) > 1:
            raise InputError(
                f"{count} processes train together (torch.distributed), and a tape sees the examples of one "
                "alone; pass group=torch.distributed.group.WORLD on every rank, or train in one process, "
                "with accumulate= for batches of the same size"
            )


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
