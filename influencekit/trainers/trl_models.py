"""What TRL's SFTTrainer does to a model and a batch: what can be recorded, and how a model is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from influencekit._tape.unwrap import remove_autocast
from influencekit.errors import InputError

__all__ = [
    "forward_of_trl", "has_fused_head", "logits_of_trl", "refuse_joined_rows", "refuse_trl",
    "remove_autocast_of",
]  # fmt: skip


def refuse_trl(args: Any) -> None:
    """Refuse by name what a trainer of TRL does that is no sum of the examples' own cross entropies."""
    kinds = [kind.__name__ for kind in type(args).__mro__ if kind.__module__.startswith("trl.")]
    if not kinds:
        return
    if "SFTConfig" not in kinds:
        raise InputError(
            f"of TRL's trainers SFTTrainer can be recorded, and {kinds[0]} is another's; its loss is not a "
            "cross entropy of labels: write the loop by hand, with an ik.Tape and loss= around it"
        )
    if args.loss_type != "nll":
        raise InputError(
            f"loss_type={args.loss_type!r} cannot be recorded: it holds a part of each loss constant; train "
            "with loss_type='nll'"
        )


def refuse_joined_rows(collate: Any) -> None:
    """Refuse a collation that joins the examples of a batch into one row, as padding-free batches do."""
    own = getattr(collate, "data_collator", collate)  # behind the Trainer's removal of columns
    if getattr(own, "padding_free", False) or "Flattening" in type(own).__name__:
        raise InputError(
            "padding_free=True joins the examples of a batch into one row, which has one loss for all of "
            "them; so does packing=True, but for packing_strategy='wrapped': train with padding_free=False "
            "and packing=False"
        )


def has_fused_head(model: nn.Module) -> bool:
    """Whether TRL has put a forward pass into the model that gives log-probabilities in place of logits."""
    return any(_fused(module) for module in model.modules())


def forward_of_trl(model: nn.Module, batch: Any) -> Any:
    """The model called as TRL calls it, where it has its own parameters: so a replay rounds as the loop did.

    With others in their place (derivatives, many models at once) it is called by the forward pass of its
    class, without labels: that gives logits, has second derivatives, and is bound to no other model.
    """
    params = list(model.parameters())
    wide = params[0].dtype == torch.float64  # which TRL's head, but nothing of ours, rounds to float32
    if not wide and has_fused_head(model) and all(isinstance(p, nn.Parameter) for p in params):
        with _forwards(model, fused=True):
            return model(**{**batch, "use_cache": False}, fused_lm_head=True)
    return logits_of_trl(model, batch)


def logits_of_trl(model: nn.Module, batch: Any) -> Any:
    """The model called by the forward pass of its class: as TRL calls it where labels are smoothed."""
    with _forwards(model, fused=False):
        return model(**{name: x for name, x in batch.items() if name != "labels"})


def remove_autocast_of(model: nn.Module) -> None:
    """Take the autocast of accelerate out of a copy's forward pass, and leave there what TRL has put."""
    own, fused = vars(model).get("_original_forward"), _fused(model)
    remove_autocast(model)
    if fused and own is not None:
        vars(model)["forward"] = own


def _fused(module: nn.Module) -> bool:
    own = vars(module)
    forward: Callable[..., Any] | None = own.get("_original_forward", own.get("forward"))  # behind accelerate
    code = getattr(getattr(forward, "__func__", forward), "__globals__", {})
    return str(code.get("__name__", "")).startswith("trl.")


@contextmanager
def _forwards(model: nn.Module, *, fused: bool) -> Iterator[None]:
    """The forward pass that TRL has put into the model, or that of its class; without the autocast that
    accelerate puts around it, so that the caller's decides in both."""
    names = "forward", "_original_forward"
    found = [vars(module) for module in model.modules() if _fused(module)]
    kept = [(own, {name: own.pop(name) for name in names if name in own}) for own in found]
    try:
        for own, forwards in kept if fused else ():
            own["forward"] = forwards.get("_original_forward", forwards.get("forward"))
        yield
    finally:
        for own, forwards in kept:
            own.pop("forward", None)
            own.update(forwards)
