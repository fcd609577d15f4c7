"""Torch optimizers: the rule that stands for each, its description in the store, and its slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from inspect import unwrap
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from influencekit._training import optimizers as _built_in  # whose rules `known_rules` finds
from influencekit._training.layout import Layout
from influencekit._training.optimizer import Group, Optimizer, Slots
from influencekit.errors import InputError, StoreError

__all__ = [
    "Clip", "UpdateRule", "describe_optimizer", "hyperparameters", "learning_rates", "read_slots",
    "rebuild_optimizer", "rule_for", "trained_parameters", "write_slots",
]  # fmt: skip

_OWN = {f.name for f in fields(Optimizer)} - {"maximize"}  # what the tape knows by other ways
_HOW = {"foreach", "fused", "capturable", "decoupled_weight_decay"}  # flags that do not change the rule


class Clip(NamedTuple):
    """How the loop clips the gradient: its norm, of this kind, or its entries."""

    norm: float | None = None
    kind: float = 2.0
    value: float | None = None

    def described(self) -> dict[str, Any]:
        """As JSON, which has no infinity."""
        rare: dict[str, Any] = {} if self.kind == 2 else {"clip_norm_type": str(self.kind)}
        rare |= {} if self.value is None else {"clip_value": self.value}
        return {"clip_norm": self.norm, **rare}


class UpdateRule(NamedTuple):
    """How gradients become the next state. `updates`: those that were done before state 0."""

    layout: Layout
    optimizer: Optimizer
    updates: int

    @classmethod
    def of(
        cls, params: Mapping[str, nn.Parameter], description: Mapping[str, Any], updates: int
    ) -> UpdateRule:
        """That of these parameters, by an optimizer of this description."""
        layout = Layout(tuple(params), tuple(tuple(p.shape) for p in params.values()))
        return cls(layout, rebuild_optimizer(description), updates)


def _known_rules(rule: type[Optimizer] = Optimizer) -> list[type[Optimizer]]:
    """Every update rule that was defined, in this order."""
    return [found for each in rule.__subclasses__() for found in (each, *_known_rules(each))]


def _standing() -> dict[str, type[Optimizer]]:
    """The rules that stand for an optimizer of torch, by name."""
    found: dict[str, type[Optimizer]] = {}
    for rule in _known_rules():
        if vars(rule).get("stands_for"):
            if rule.__name__ in _built_in.__all__ and rule is not getattr(_built_in, rule.__name__):
                raise InputError(f"{rule.__name__} is the name of an optimizer of influencekit; use another")
            found[rule.__name__] = rule
    return found


def rule_for(optimizer: torch.optim.Optimizer) -> type[Optimizer]:
    """The rule that stands for the optimizer's class, or for a parent whose `step` it takes unchanged.

    Errors: no such rule.
    """
    kind = type(optimizer)
    rules = {rule.stands_for: rule for rule in _standing().values()}
    for parent in kind.__mro__:
        if parent in rules and all(_same(kind, parent, name) for name in ("step", "_init_group")):
            decoupled = {bool(g.get("decoupled_weight_decay")) for g in optimizer.param_groups}
            if rules[parent] in (_built_in.Adam, _built_in.AdamW):
                if len(decoupled) > 1:
                    raise InputError(
                        f"{kind.__name__}: decoupled_weight_decay is True in some parameter groups and False "
                        "in others; use one of them"
                    )
                return _built_in.AdamW if True in decoupled else _built_in.Adam
            return rules[parent]
        if parent in rules:
            break
    if issubclass(kind, torch.optim.LBFGS):
        what = (
            f"{kind.__name__} evaluates the loss several times in a step, which a tape does not record; use "
            "an optimizer that takes one gradient a step"
        )
    else:
        ours = getattr(torch.optim, kind.__name__, kind) is kind  # or another one of the same name
        name = kind.__name__ if ours else f"{kind.__module__}.{kind.__name__}"
        what = (
            f"the tape does not know how {name} steps; write its rule as an ik.Optimizer with "
            f"stands_for = {kind.__name__} (docs/extending.md, An optimizer)"
        )
    raise InputError(
        f"{what}; a model that is trained already can be asked by its gradients, with if or grad-dot "
        "(docs/choosing.md, Only a trained model)"
    )


def _same(kind: type, parent: type, method: str) -> bool:
    """Whether a class has its parent's method. (torch wraps `step` in every class.)"""
    mine, its = (getattr(c, method, None) for c in (kind, parent))
    return mine is its or (mine is not None and its is not None and unwrap(mine) is unwrap(its))


def hyperparameters(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The hyper-parameters of every parameter group but its learning rate. Errors: an unknown optimizer."""
    rule = rule_for(optimizer)
    names = [f.name for f in fields(rule) if f.name not in _OWN]
    found = []
    for k, group in enumerate(optimizer.param_groups):
        wrong = [n for n, v in group.items() if v is True and n not in names and n not in _HOW]
        if wrong:
            raise InputError(f"{type(optimizer).__name__}, group {k}: {wrong[0]}=True is not supported")
        found.append({n: _plain(group[n]) for n in names if n in group})
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    return value.item() if isinstance(value, Tensor) else value


def learning_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """The learning rate of every group, now."""
    return [float(group["lr"]) for group in optimizer.param_groups]


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
    optimizer: torch.optim.Optimizer, params: Mapping[str, nn.Parameter], clip: Clip
) -> dict[str, Any]:
    """The update rule as JSON: `rebuild_optimizer` makes our `Optimizer` of it."""
    owner = {id(p): k for k, group in enumerate(optimizer.param_groups) for p in group["params"]}
    groups = []
    for k, values in enumerate(hyperparameters(optimizer)):
        members = [name for name, p in params.items() if owner[id(p)] == k]
        lr = optimizer.param_groups[k].get("initial_lr", optimizer.param_groups[k]["lr"])
        groups.append({"params": members, "lr": float(lr), **values})
    kind = rule_for(optimizer).__name__
    return {"rule": kind, **clip.described(), "groups": groups}


def rebuild_optimizer(description: Mapping[str, Any]) -> Optimizer:
    """Our update rule of a description; its own settings are those of group 0, the others are `Group`s."""
    groups = []
    for group in description["groups"]:
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in group.items() if k != "params"
        }
        exact = tuple(name.replace("[", "[[]") for name in group["params"])
        groups.append((exact, values))
    name = description["rule"]
    rule = _standing().get(name)
    if rule is None:
        raise InputError(
            f"the run was trained with the update rule {name}, an ik.Optimizer of your own; import the "
            "module that defines it, and open the run again"
        )
    rest = tuple(Group(names, values) for names, values in groups[1:])
    clip = {k: v for k, v in description.items() if k.startswith("clip_")}
    try:
        if "clip_norm_type" in clip:
            clip["clip_norm_type"] = float(clip["clip_norm_type"])
        found = rule(**groups[0][1], **clip, groups=rest)
        for member in found.members():
            _check_settings(member)
    except (TypeError, ValueError) as error:
        raise StoreError(f"the optimizer of the store cannot be made again ({name}: {error})") from error
    return found


def _check_settings(rule: Optimizer) -> None:
    """Errors: `ValueError` for a setting of another type than its default, where that is a number or true or
    false, or holds some."""
    for field in fields(rule):
        value, default = getattr(rule, field.name), 0.0 if field.name == "lr" else field.default
        if not _of_its_type(value, default):
            raise ValueError(f"{field.name} is {value!r}")


def _of_its_type(value: Any, default: Any) -> bool:
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int):
        return isinstance(value, int) and 0 <= value <= 1000  # it may count what every step does
    if isinstance(default, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if isinstance(default, tuple) and default:
        return (
            isinstance(value, tuple) and all(map(_of_its_type, value, default)) and len(value) == len(default)
        )
    return default is not None or value is None or isinstance(value, int | float | str)


def read_slots(
    optimizer: torch.optim.Optimizer, rule: UpdateRule, params: Mapping[str, nn.Parameter]
) -> tuple[Slots, int]:
    """The optimizer's slots [param], as at first where it has none yet, and the number of its updates."""
    found, counts = [], set()
    members = _members(rule)
    for name, p in params.items():
        state = optimizer.state.get(p, {})
        found.append(members[name].slots_of(state, p.detach()))
        if members[name].slots:
            counts.add(_updates(state))
    slots = {
        slot: torch.cat([(each[slot] if slot in each else torch.zeros_like(p)).reshape(-1)
                         for each, p in zip(found, params.values(), strict=True)])
        for slot in rule.optimizer.slots
    }  # fmt: skip
    if len(counts) > 1:
        raise InputError(
            f"the optimizer has updated its parameters a different number of times ({sorted(counts)}); a "
            "parameter that is used in some steps only cannot be recorded"
        )
    return slots, counts.pop() if counts else 0


def _members(rule: UpdateRule) -> dict[str, Optimizer]:
    """The rule of every parameter's group."""
    members, owners = rule.optimizer.members(), rule.optimizer.owners(rule.layout)
    return {name: members[k] for name, k in zip(rule.layout.names, owners, strict=True)}


def _updates(state: Mapping[str, Any]) -> int:
    if "step" in state:
        return int(state["step"])
    return int(any(value is not None for value in state.values()))


def write_slots(
    optimizer: torch.optim.Optimizer, rule: UpdateRule, params: Mapping[str, nn.Parameter],
    slots: Slots, updates: int,
) -> None:  # fmt: skip
    """Put slots back, after so many updates: the inverse of `read_slots`."""
    parts = {name: rule.layout.split(values) for name, values in slots.items()}
    members = _members(rule)
    for name, p in params.items():
        own = {slot: parts[slot][name] for slot in members[name].slots}
        if own and (updates or optimizer.state.get(p)):  # Adagrad has its slots before the first update
            state = members[name].state_of(own, updates)
            optimizer.state[p] = {n: x.clone() if isinstance(x, Tensor) else x for n, x in state.items()}
