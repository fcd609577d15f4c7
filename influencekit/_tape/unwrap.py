"""What stands behind wrappers: torch.compile, accelerate, Lightning Fabric, progress bars around loaders."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from influencekit._tape.hooks import Hook
from influencekit._training.checks.model import copy_model

__all__ = [
    "LoaderPlace", "find_loader", "model_behind", "optimizer_behind", "plain_copy", "remove_autocast",
    "watch_forward",
]  # fmt: skip

_MODULES = {
    "OptimizedModule": "_orig_mod",
    "_FabricModule": "_original_module",
    "DistributedDataParallel": "module",
}
_DEPTH = 4  # wrappers around wrappers around a loader
_INSIDE = {
    "dataset",
    "sampler",
    "batch_sampler",
    "collate_fn",
    "_iterator",
}  # of a loader: no loader around it


def model_behind(model: nn.Module) -> nn.Module:
    """The module behind `torch.compile`, DDP and Fabric. accelerate gives back the module itself."""
    while (name := _MODULES.get(type(model).__name__)) is not None:
        model = getattr(model, name)
    return model


def optimizer_behind(optimizer: Any) -> Any:
    """The optimizer of torch behind those of accelerate and Fabric."""
    while True:
        own = getattr(optimizer, "__dict__", {})
        inner = own.get("optimizer", own.get("_optimizer"))
        if not isinstance(inner, torch.optim.Optimizer):
            return optimizer
        optimizer = inner


# the forward pass that a loop calls ---------------------------------------------------------------------


def watch_forward(
    model: nn.Module, before: Callable[[tuple[Any, ...], dict[str, Any]], None], after: Callable[[Any], None],
    copied: Callable[[], None],
) -> list[Callable[[], None]]:  # fmt: skip
    """Call `before(args, kwargs)` and `after(outputs)` around every forward pass, and `copied` where the
    model is copied; returns what undoes this.

    A compiled model is watched from outside, so that nothing of this is compiled. The autocast that
    accelerate hides in `forward` is entered before, so that it shows.
    """
    watched = model if "OptimizedModule" in _kinds(model) else model_behind(model)
    cast, inside = _hidden_autocast(watched), ExitStack()

    def pre(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kind = _device(watched).type
        if cast is not None and not torch.is_autocast_enabled(kind):  # else a callback of ours has entered it
            inside.enter_context(torch.autocast(kind, dtype=cast))
        try:
            before(args, kwargs)
        except BaseException:
            inside.close()
            raise

    def post(module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        inside.close()
        if outputs is not None:  # None: the forward pass has failed
            after(outputs)

    compiled = vars(watched).get("_compiled_call_impl")
    if compiled is not None and "OptimizedModule" not in _kinds(watched):  # by model.compile()

        def call(*args: Any, **kwargs: Any) -> Any:
            pre(watched, args, kwargs)
            outputs = None
            try:
                outputs = compiled(*args, **kwargs)
            finally:
                post(watched, args, kwargs, outputs)
            return outputs

        watched._compiled_call_impl = call  # type: ignore[assignment]
        return [lambda: setattr(watched, "_compiled_call_impl", compiled)]
    outside = torch.compiler.disable if "torch._dynamo" in sys.modules else lambda hook: hook
    return [
        watched.register_forward_pre_hook(Hook(outside(pre), copied), with_kwargs=True).remove,
        watched.register_forward_hook(
            Hook(outside(post)), with_kwargs=True, always_call=cast is not None
        ).remove,
    ]


def _kinds(model: nn.Module) -> set[str]:
    return {kind.__name__ for kind in type(model).__mro__}


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _hidden_autocast(model: nn.Module) -> torch.dtype | None:
    """The dtype of the autocast that accelerate has put into a model's `forward`."""
    state = sys.modules.get("accelerate.state")
    if "_original_forward" not in vars(model) or state is None:
        return None
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(str(state.AcceleratorState().mixed_precision))


def remove_autocast(model: nn.Module) -> None:
    """Take the autocast of accelerate out of a copy's `forward`."""
    if "_original_forward" in vars(model):
        vars(model).pop("forward", None)
        del vars(model)["_original_forward"]


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy of the module behind, or the module itself where nothing is around it."""
    found = model_behind(model)
    if "_original_forward" in vars(found):
        found = copy_model(found)
        remove_autocast(found)
    return found


# loaders ------------------------------------------------------------------------------------------------


class LoaderPlace(NamedTuple):
    """A DataLoader, and where it stands: attribute `name` of `owner`; no owner where nothing is around it."""

    loader: DataLoader[Any]
    owner: Any = None
    name: str = ""


def find_loader(thing: Any) -> LoaderPlace | None:
    """The DataLoader that `thing` is, or wraps: tqdm, accelerate, Fabric, or any object that has just one."""
    found = _places(thing, _DEPTH)
    if found:
        return found[0] if len({id(place.loader) for place in found}) == 1 else None
    return LoaderPlace(thing) if DataLoader in type(thing).__mro__ else None


def _places(thing: Any, depth: int) -> list[LoaderPlace]:
    found: list[LoaderPlace] = []
    for name, value in getattr(thing, "__dict__", {}).items():
        if (
            name in _INSIDE
            or value is thing
            or isinstance(value, torch.Tensor | nn.Module | Dataset | Sampler)
        ):
            continue
        if depth and hasattr(type(value), "__iter__") and hasattr(value, "__dict__"):
            inner = _places(value, depth - 1)
            if not inner and DataLoader in type(value).__mro__:
                inner = [LoaderPlace(value, thing, name)]
            found += inner
    return found
