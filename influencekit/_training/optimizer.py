"""What an optimizer is: a pure update rule on flat vectors with its adjoint, and groups of parameters.

A rule maps (theta, slots, gradient) to (theta', slots'). As a rule it is elementwise over the last dimension
`param`, so leading dimensions (models in a batch, adjoint columns) need no vmap. One that is not
(`elementwise = False`) gets one whole parameter after the other, in its own shape. `pullback` is the
transposed derivative of `step`: in closed form where a rule has one, else by `torch.func.vjp`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from math import prod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from influencekit._arguments import check_options, real_number
from influencekit._specs import options_of
from influencekit._training.clipping import by_norm, by_norm_pullback, by_value, by_value_pullback
from influencekit._training.group import Group, groups_of
from influencekit._training.layout import Layout
from influencekit.errors import InputError

__all__ = ["Group", "Optimizer", "Slots", "description", "since_0_3"]

Slots = dict[str, Tensor]

_PIECE = 1 << 18  # entries of a vector that a rule is applied to at once
_SIGNED = ("dampening", "beta2_decay")  # settings that may be below 0; all others may not
_FRACTIONS = ("alpha", "rho")  # and these are at most 1


def since_0_3(default: Any) -> Any:
    """The default of a setting that optimizers have had since 0.3: see `description`."""
    return field(default=default, metadata={"since": "0.3"})


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """An update rule as frozen data. `slots` names its state vectors, shaped like theta, zero at first.

    `clip_norm`, `clip_norm_type`: the gradient is clipped as by `torch.nn.utils.clip_grad_norm_`;
    `clip_value`: as by `clip_grad_value_`. `maximize`: the step goes up the gradient.
    `stands_for` is the class of `torch.optim.Optimizer` whose steps a tape replays by this rule. Its settings
    are then named as in that class's parameter groups, and the slots as in its state.

    Example:

        >>> import influencekit as ik
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True, kw_only=True)
        ... class SignSGD(ik.Optimizer):
        ...     def rule(self, theta, slots, g, t, lr):
        ...         return theta - lr * g.sign(), slots
        >>> SignSGD(lr=0.1).lr
        0.1
    """

    lr: float
    clip_norm: float | None = None
    clip_norm_type: float = since_0_3(2.0)
    clip_value: float | None = since_0_3(None)
    maximize: bool = since_0_3(False)
    groups: tuple[Group, ...] = ()

    slots: ClassVar[tuple[str, ...]] = ()
    uses_gradient: ClassVar[bool] = True  # whether the pullback needs the mean gradient's value
    elementwise: ClassVar[bool] = True  # else `rule` gets theta, slots and g of one parameter, in its shape
    rounds: ClassVar[bool] = False  # in lower precision, so otherwise for models in a batch
    stands_for: ClassVar[type[torch.optim.Optimizer] | None] = None

    def __post_init__(self) -> None:
        check_options(self)
        for name, option in options_of(type(self)).items():
            value = getattr(self, name)
            if option.annotation is float and not name.startswith("clip"):
                least, most = (None, None) if name in _SIGNED else (0, 1 if name in _FRACTIONS else None)
                real_number(f"{type(self).__name__}: {name}", value, least, most)
        for name in ("clip_norm", "clip_value", "clip_norm_type"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be above 0{' or None' * (name[-4:] != 'type')}, got {value}")
        if self.clip_norm is not None and self.clip_value is not None:
            raise InputError("clip_norm and clip_value were both given; clip by the norm or by value")
        betas = getattr(self, "betas", ())
        if not all(0 <= beta < 1 for beta in betas):
            raise InputError(f"{type(self).__name__}: betas must lie in [0, 1), got {betas}")
        object.__setattr__(self, "groups", groups_of(self))
        if self.groups:
            self.members()

    @abstractmethod
    def rule(self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float) -> tuple[Tensor, Slots]:
        """One update from the optimizer's step t (0 at first), out of place.

        theta, slots and g are [..., param]; with `elementwise = False` those of one parameter, in its shape.
        """

    def rule_pullback(
        self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float, a: Tensor, a_slots: Slots
    ) -> tuple[Tensor, Tensor, Slots]:
        """Adjoints (c of g, then of theta, then of the slots) of `rule`; here by automatic differentiation.

        theta, slots and g are as `rule` gets them; a and a_slots may have leading columns.
        """
        _, vjp = torch.func.vjp(lambda *args: self.rule(*args, t, lr), theta, slots, g)  # type: ignore
        for _ in range(a.dim() - theta.dim()):
            vjp = torch.func.vmap(vjp)
        da, dslots, c = vjp((a, a_slots))
        return c, da, dslots

    @property
    def gain(self) -> float:
        """How far one gradient moves theta over the steps that follow, in learning rates. For Adam 1: what
        its division by the gradient's size does to the step is not in it."""
        return 1.0

    def slots_of(self, state: Mapping[str, Any], like: Tensor) -> Slots:
        """The slots of a parameter, shaped like it, from the `state` that torch's optimizer has for it."""
        found = {name: state.get(name) for name in self.slots}
        return {n: torch.zeros_like(like) if x is None else x.expand_as(like) for n, x in found.items()}

    def state_of(self, slots: Slots, updates: int) -> dict[str, Any]:
        """What torch's optimizer has for a parameter after so many updates: the inverse of `slots_of`."""
        return {"step": torch.tensor(float(updates)), **slots}

    # what callers use -------------------------------------------------------------------------------

    def owners(self, layout: Layout) -> list[int]:
        """For every parameter of the layout the number of its rule among `members`."""
        return _owners(layout, tuple(group.params for group in self.groups))

    def start(self, theta: Tensor) -> Slots:
        """The slots before the first step."""
        return {name: torch.zeros_like(theta) for name in self.slots}

    def members(self) -> list["Optimizer"]:
        """The rule of each group: the optimizer's own first, then one for every `Group`."""
        own = [replace(self, groups=(), clip_norm=None, clip_value=None)]
        return own + [replace(own[0], **group.changes) for group in self.groups]

    def with_settings(self, settings: Sequence[Mapping[str, Any]]) -> "Optimizer":
        """The same with other settings of every group, the optimizer's own first."""
        pairs = zip(self.groups, settings[1:], strict=True)
        groups = tuple(Group(group.params, {**group.changes, **changes}) for group, changes in pairs)
        return replace(self, **settings[0], groups=groups)

    def step(
        self, layout: Layout, theta: Tensor, slots: Slots, g: Tensor, t: int, lrs: Sequence[float]
    ) -> tuple[Tensor, Slots]:
        """Clip, then apply every group's rule. theta, slots, g: [..., param]; lrs: one a group."""
        if self.clip_norm is not None:
            g = by_norm(layout, g, self.clip_norm, self.clip_norm_type)
        elif self.clip_value is not None:
            g = by_value(g, self.clip_value)

        def step(rule: Optimizer, piece: _Piece, theta: Tensor, slots: Slots, g: Tensor) -> Any:
            def call(theta: Tensor, slots: Slots, g: Tensor) -> tuple[Tensor, Slots]:
                return rule.rule(theta, slots, -g if rule.maximize else g, t, lrs[piece.group])

            if piece.shape is None:
                return call(theta, slots, g)
            for _ in range(theta.dim() - 1):
                call = torch.vmap(call)
            return _flat(piece.shape, call(*_shaped(piece.shape, theta, slots, g)))

        return self._joined(layout, step, theta, slots, g)  # type: ignore[return-value]

    def pullback(
        self,
        layout: Layout,
        theta: Tensor,
        slots: Slots,
        g: Tensor | None,
        t: int,
        lrs: Sequence[float],
        a: Tensor,
        a_slots: Slots,
        overwrite: bool = False,
    ) -> tuple[Tensor, Tensor, Slots]:
        """The adjoint of `step`: (c, a, a_slots) before the step from (a, a_slots) after it.

        c [..., param] is the adjoint of the mean gradient: example j's share is -<c, g_j> / b, and the
        caller adds H c to a. g is the unclipped mean gradient, None allowed where `uses_gradient` is False.
        `overwrite`: what is returned may take the place of a and a_slots, which saves their memory; it shares
        none with anything else.
        """
        raw = g
        if self.clip_norm is not None:
            g = by_norm(layout, raw, self.clip_norm, self.clip_norm_type)  # type: ignore[arg-type]
        elif self.clip_value is not None:
            g = by_value(raw, self.clip_value)  # type: ignore[arg-type]

        def back(
            rule: Optimizer, piece: _Piece, theta: Tensor, slots: Slots, g: Tensor | None, a: Tensor,
            a_slots: Slots,
        ) -> tuple[Tensor, Tensor, Slots]:  # fmt: skip
            g = -g if rule.maximize and g is not None else g
            given = (theta, slots, g, a, a_slots)
            shaped = given if piece.shape is None else _shaped(piece.shape, *given)
            c, *rest = rule.rule_pullback(*shaped[:3], t, lrs[piece.group], *shaped[3:])  # type: ignore
            found = (-c if rule.maximize else c, *rest)
            if piece.shape is not None:
                found = _flat(piece.shape, found)  # type: ignore[assignment]
            return _apart(found, given) if overwrite else found  # type: ignore[return-value]

        into = (torch.empty_like(a), a, a_slots) if overwrite else None
        c, a, a_slots = self._joined(layout, back, theta, slots, g, a, a_slots, into=into)
        if self.clip_norm is not None:
            c = by_norm_pullback(layout, raw, self.clip_norm, self.clip_norm_type, c)  # type: ignore
        elif self.clip_value is not None:
            c = by_value_pullback(raw, self.clip_value, c)  # type: ignore[arg-type]
        return c, a, a_slots

    def _joined(
        self, layout: Layout, each: Callable[..., Sequence[Any]], *given: Any, into: Any = None
    ) -> tuple[Any, ...]:
        """What `each(rule, piece, *given there)` gives, in one piece: vectors [..., param], slots by name.

        A rule is applied to one piece after the other: group by group; parameter by parameter where it is
        not elementwise; and on a CPU in pieces whose intermediate results stay in its caches. `into`: where
        pieces are written, which may be what is given, since no piece reads another's entries.
        """
        theta, rules = given[0], self.members() if self.groups else [self]
        long = theta.device.type == "cpu" and theta.shape[-1] > _PIECE
        try:
            if self.elementwise and not (self.groups or long):
                return tuple(each(self, _Piece(0, slice(None)), *given))
            found = []
            for piece in _pieces(layout, tuple(group.params for group in self.groups), self.elementwise):
                there = (_each(lambda x, where=piece.where: x[..., where], v) for v in given)
                parts = each(rules[piece.group], piece, *there)
                if into is None:
                    found.append(parts)
                else:
                    _write(into, piece.where, parts)
        except RuntimeError as error:
            if "without overflow" not in str(error):
                raise
            raise InputError(
                f"{type(self).__name__}: a setting, or what the rule makes of it, is more than {theta.dtype} "
                "holds; lower the learning rate, weight_decay, momentum or eps"
            ) from error
        if into is not None:
            return tuple(into)
        columns = [list(parts) for parts in zip(*found, strict=True)]
        del found  # each result's pieces go as soon as it is joined
        return tuple(_together(columns.pop(0)) for _ in range(len(columns)))

    def needs_gradient(self) -> bool:
        """Whether `pullback` reads g."""
        return self.uses_gradient or self.clip_norm is not None or self.clip_value is not None


class _Piece(NamedTuple):
    """Entries of theta to which one rule is applied at once; `shape`: of the parameter that they are."""

    group: int
    where: slice
    shape: tuple[int, ...] | None = None


def _owners(layout: Layout, groups: Sequence[tuple[str, ...]]) -> list[int]:
    owner = [0] * len(layout.names)
    for k, patterns in reversed(list(enumerate(groups, start=1))):
        for i, hit in enumerate(layout.matching(patterns)):
            owner[i] = k if hit else owner[i]
    return owner


@lru_cache(maxsize=64)
def _pieces(layout: Layout, groups: tuple[tuple[str, ...], ...], elementwise: bool) -> list[_Piece]:
    """A parameter each, or adjoining parameters of one group merged and cut into pieces."""
    merged: list[tuple[int, int, int]] = []
    whole, start = [], 0
    for k, size, shape in zip(_owners(layout, groups), layout.sizes, layout.shapes, strict=True):
        whole.append(_Piece(k, slice(start, start + size), shape))
        if merged and merged[-1][0] == k:
            merged[-1] = (k, merged[-1][1], start + size)
        else:
            merged.append((k, start, start + size))
        start += size
    if not elementwise:
        return whole
    return [
        _Piece(k, slice(low, min(low + _PIECE, high)))
        for k, first, high in merged
        for low in range(first, high, _PIECE)
    ]


def _each(change: Callable[..., Tensor], given: Any) -> Any:
    """A vector, slots by name, or None, changed."""
    if given is None:
        return None
    return {n: change(x) for n, x in given.items()} if isinstance(given, dict) else change(given)


def _apart(found: Sequence[Any], given: Sequence[Any]) -> list[Any]:
    """Results that share no memory with each other nor with what was given."""
    used: set[int] = set()

    def own(x: Tensor) -> Tensor:
        memory = x.untyped_storage().data_ptr()
        if memory in used:
            return x.clone()
        used.add(memory)
        return x

    for x in given:
        _each(own, x)
    return [_each(own, x) for x in found]


def _write(into: Sequence[Any], where: slice, parts: Sequence[Any]) -> None:
    """Put the results of one piece into their places."""
    for whole, part in zip(into, parts, strict=True):
        if isinstance(whole, dict):
            _write([*whole.values()], where, [part[n] for n in whole])
        else:
            whole[..., where] = part


def _together(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {n: torch.cat([part[n] for part in parts], -1) for n in parts[0]}
    return torch.cat(parts, -1)  # type: ignore[arg-type]


def _shaped(shape: tuple[int, ...], *given: Any) -> Any:
    """Vectors [..., entry] as [..., *shape]."""
    return [_each(lambda x: x.reshape((*x.shape[:-1], *shape)), x) for x in given]


def _flat(shape: tuple[int, ...], given: Sequence[Any]) -> Any:
    """[..., *shape] as vectors [..., entry]."""
    return [_each(lambda x: x.reshape((*x.shape[: x.dim() - len(shape)], prod(shape))), x) for x in given]


def description(optimizer: Optimizer) -> str:
    """The optimizer as text, by which a store knows it: its `repr`, without the settings that older versions
    did not have where these stand at their defaults."""
    shown = [
        f"{f.name}={getattr(optimizer, f.name)!r}"
        for f in fields(optimizer)
        if not f.metadata.get("since") or getattr(optimizer, f.name) != f.default
    ]
    return f"{type(optimizer).__qualname__}({', '.join(shown)})"
