"""Optimizers of `torch.optim`: their hyper-parameters, their update rule, and their slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from influencekit._training.layout import Layout
from influencekit._training.optimizer import Group, Optimizer, Slots
from influencekit._training.optimizers import SGD, Adam, AdamW
from influencekit.errors import InputError

__all__ = [
    "UpdateRule", "check_hyperparameters", "describe_optimizer", "hyperparameters", "learning_rates",
    "read_slots", "rebuild_optimizer", "trained_parameters", "write_slots",
]  # fmt: skip

_RULES: dict[type, tuple[Any, tuple[str, ...]]] = {
    torch.optim.SGD: (SGD, ("momentum", "dampening", "nesterov", "weight_decay")),
    torch.optim.Adam: (Adam, ("betas", "eps", "weight_decay")),
    torch.optim.AdamW: (AdamW, ("betas", "eps", "weight_decay")),
}
_REFUSED = ("maximize", "amsgrad", "differentiable")
_BY_NAME = {rule.__name__: rule for rule, _ in _RULES.values()}


class UpdateRule(NamedTuple):
    """How gradients become the next state. `updates`: those that were done before state 0."""

    layout: Layout
    optimizer: Optimizer
    updates: int


def hyperparameters(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The hyper-parameters of every parameter group but its learning rate. Errors: an unknown optimizer."""
    if type(optimizer) not in _RULES:
        raise InputError(
            f"the tape knows torch.optim.SGD, Adam and AdamW, and got {type(optimizer).__name__}; train with "
            "one of these"
        )
    found = []
    for k, group in enumerate(optimizer.param_groups):
        if wrong := [name for name in _REFUSED if group.get(name)]:
            raise InputError(f"{type(optimizer).__name__}, group {k}: {wrong[0]}=True is not supported")
        names = _RULES[type(optimizer)][1]
        found.append({n: tuple(v) if isinstance(v := group[n], list | tuple) else v for n in names})
    return found


def learning_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """The learning rate of every group, now."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def check_hyperparameters(
    before: Sequence[Mapping[str, Any]], optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Refuse hyper-parameters that changed during the run, other than the learning rate."""
    if len(optimizer.param_groups) != len(before):
        raise InputError(
            f"the optimizer got another parameter group before step {step}; add it before the "
            "run, with lr = 0 until it is to be trained"
        )
    for k, (old, group) in enumerate(zip(before, optimizer.param_groups, strict=True)):
        for name, value in old.items():
            now = tuple(group[name]) if isinstance(group[name], list) else group[name]
            if now != value:
                raise InputError(
                    f"{name} of parameter group {k} changed from {value} to {now} before step {step}; only "
                    "the learning rate may change during a run (for OneCycleLR: cycle_momentum=False)"
                )


def trained_parameters(
    model: nn.Module, optimizer: torch.optim.Optimizer, clip_norm: float | None = None
) -> dict[str, nn.Parameter]:
    """The parameters that the step is about to change, in the model's order: the optimizer's with a gradient.

    As in torch, a parameter without a gradient (frozen, or not used by the loss) is left alone, even by
    weight decay.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    mine = {id(p): k for k, group in enumerate(optimizer.param_groups) for p in group["params"]}
    if stranger := [k for p, k in mine.items() if p not in names]:
        raise InputError(
            f"parameter group {stranger[0]} of the optimizer holds a parameter that the model does not have; "
            "pass the tape the model whose parameters it trains"
        )
    found = {n: p for n, p in model.named_parameters() if id(p) in mine and p.grad is not None}
    outside = [n for n, p in model.named_parameters() if id(p) not in mine and p.grad is not None]
    if clip_norm is not None and outside:
        raise InputError(
            f"parameter {outside[0]} has a gradient, which counts in the clipped norm, and is in no group of "
            "the optimizer; freeze it, or give it to the optimizer"
        )
    if odd := [n for n, p in found.items() if p.dtype not in (torch.float32, torch.float64)]:
        raise InputError(
            f"parameter {odd[0]} is {found[odd[0]].dtype}; the tape records parameters of float32 or "
            "float64: train in lower precision by torch.autocast"
        )
    if not found:
        raise InputError("no parameter of the optimizer has a gradient; call loss.backward() before its step")
    return found


def describe_optimizer(
    optimizer: torch.optim.Optimizer, params: Mapping[str, nn.Parameter], clip_norm: float | None
) -> dict[str, Any]:
    """The update rule as JSON: `rebuild_optimizer` makes our `Optimizer` of it."""
    owner = {id(p): k for k, group in enumerate(optimizer.param_groups) for p in group["params"]}
    groups = []
    for k, values in enumerate(hyperparameters(optimizer)):
        members = [name for name, p in params.items() if owner[id(p)] == k]
        lr = optimizer.param_groups[k].get("initial_lr", optimizer.param_groups[k]["lr"])
        groups.append({"params": members, "lr": float(lr), **values})
    kind = _RULES[type(optimizer)][0].__name__
    if any(group.get("decoupled_weight_decay") for group in optimizer.param_groups):
        kind = "AdamW"
    return {"rule": kind, "clip_norm": clip_norm, "groups": groups}


def rebuild_optimizer(description: Mapping[str, Any]) -> Optimizer:
    """Our update rule of a description; its own settings are those of group 0, the others are `Group`s."""
    groups = []
    for group in description["groups"]:
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in group.items() if k != "params"
        }
        exact = tuple(name.replace("[", "[[]") for name in group["params"])
        groups.append((exact, values))
    rule = _BY_NAME[description["rule"]]
    rest = tuple(Group(names, values) for names, values in groups[1:])
    return rule(**groups[0][1], clip_norm=description["clip_norm"], groups=rest)


def read_slots(
    optimizer: torch.optim.Optimizer, rule: UpdateRule, params: Mapping[str, nn.Parameter]
) -> tuple[Slots, int]:
    """The optimizer's slots [param], zero where it has none yet, and the number of its updates so far."""
    slots = {}
    for name in rule.optimizer.slots:
        found = {n: optimizer.state.get(p, {}).get(name) for n, p in params.items()}
        slots[name] = rule.layout.join(
            {n: torch.zeros_like(p) if found[n] is None else found[n] for n, p in params.items()}
        )
    counts = {_updates(optimizer.state.get(p, {})) for p in _with_slots(optimizer, params).values()}
    if len(counts) > 1:
        raise InputError(
            f"the optimizer has updated its parameters a different number of times ({sorted(counts)}); a "
            "parameter that is used in some steps only cannot be recorded"
        )
    return slots, counts.pop() if counts else 0


def _with_slots(
    optimizer: torch.optim.Optimizer, params: Mapping[str, nn.Parameter]
) -> dict[str, nn.Parameter]:
    """The parameters that have slots: not those of groups without momentum."""
    without = {
        id(p) for group in optimizer.param_groups if not group.get("momentum", 1) for p in group["params"]
    }
    return {name: p for name, p in params.items() if id(p) not in without}


def _updates(state: Mapping[str, Any]) -> int:
    if "step" in state:
        return int(state["step"])
    return int(state.get("momentum_buffer") is not None)


def write_slots(
    optimizer: torch.optim.Optimizer, rule: UpdateRule, params: Mapping[str, nn.Parameter],
    slots: Slots, updates: int,
) -> None:  # fmt: skip
    """Put slots back, after so many updates: the inverse of `read_slots`."""
    parts = {name: rule.layout.split(values) for name, values in slots.items()}
    for name, p in _with_slots(optimizer, params).items():
        state: dict[str, Any] = {slot: parts[slot][name].clone() for slot in parts} if updates else {}
        if "exp_avg" in state:
            state["step"] = torch.tensor(float(updates))
        optimizer.state[p] = state
