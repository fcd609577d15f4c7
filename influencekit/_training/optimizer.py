"""What an optimizer is: a pure update rule on flat vectors with its adjoint, and groups of parameters.

A rule maps (theta, slots, gradient) to (theta', slots'). Everything is elementwise over the last
dimension `param`, so leading dimensions (models in a batch, adjoint columns) need no vmap. `pullback`
is the transposed derivative of `step`; the closed forms are those of SGD and Adam, a new optimizer
inherits an exact one from `torch.func.vjp`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from influencekit._training.layout import Layout
from influencekit.errors import InputError

__all__ = ["Group", "Optimizer", "Slots"]

Slots = dict[str, Tensor]

_PIECE = 1 << 18  # entries of a vector that a rule is applied to at once


@dataclass(frozen=True)
class Group:
    """Parameters (shell-style patterns of names) with hyper-parameters of their own.

    Example: `SGD(lr=.1, groups=(Group(("head.*",), {"lr": .5, "weight_decay": 0.0}),))`. A parameter
    belongs to the first group that matches it, and to the optimizer's own settings when none does.

    Example:

        >>> import influencekit as ik
        >>> head = ik.Group(("head.*",), {"lr": 0.5, "weight_decay": 0.0})
        >>> len(ik.SGD(lr=0.1, groups=(head,)).members())
        2
    """

    params: tuple[str, ...]
    changes: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """An update rule as frozen data. `slots` names its state vectors, shaped like theta, zero at first.

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
    groups: tuple[Group, ...] = ()

    slots: ClassVar[tuple[str, ...]] = ()
    uses_gradient: ClassVar[bool] = True  # whether the pullback needs the mean gradient's value

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "eps", "momentum"):
            value = getattr(self, name, 0.0)
            if not value >= 0.0:
                raise InputError(f"{type(self).__name__}: {name} must be at least 0, got {value}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"clip_norm must be above 0 or None, got {self.clip_norm}")

    @abstractmethod
    def rule(self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float) -> tuple[Tensor, Slots]:
        """One update from the optimizer's step t (0 at first), out of place."""

    def rule_pullback(
        self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float, a: Tensor, a_slots: Slots
    ) -> tuple[Tensor, Tensor, Slots]:
        """Adjoints (c of g, then of theta, then of the slots) of `rule`; here by automatic differentiation.

        theta, slots and g are [param]; a and a_slots may have leading columns.
        """
        _, vjp = torch.func.vjp(lambda *args: self.rule(*args, t, lr), theta, slots, g)  # type: ignore
        for _ in range(a.dim() - 1):
            vjp = torch.func.vmap(vjp)
        da, dslots, c = vjp((a, a_slots))
        return c, da, dslots

    @property
    def gain(self) -> float:
        """How far one gradient moves theta over the steps that follow, in learning rates. For Adam 1: what
        its division by the gradient's size does to the step is not in it."""
        return 1.0

    # what callers use -------------------------------------------------------------------------------

    def owners(self, layout: Layout) -> list[int]:
        """For every parameter of the layout the number of its rule among `members`."""
        owner = [0] * len(layout.names)
        for k, group in reversed(list(enumerate(self.groups, start=1))):
            for i, hit in enumerate(layout.matching(group.params)):
                owner[i] = k if hit else owner[i]
        return owner

    def start(self, theta: Tensor) -> Slots:
        """The slots before the first step."""
        return {name: torch.zeros_like(theta) for name in self.slots}

    def members(self) -> list["Optimizer"]:
        """The rule of each group: the optimizer's own first, then one for every `Group`."""
        own = [replace(self, groups=(), clip_norm=None)]
        return own + [replace(own[0], **group.changes) for group in self.groups]

    def step(
        self, layout: Layout, theta: Tensor, slots: Slots, g: Tensor, t: int, lrs: Sequence[float]
    ) -> tuple[Tensor, Slots]:
        """Clip, then apply every group's rule. theta, slots, g: [..., param]; lrs: one a group."""
        if self.clip_norm is not None:
            g = _clip(layout, g, self.clip_norm)[0]
        if not self._in_pieces(theta):
            return self.rule(theta, slots, g, t, lrs[0])
        rules = self.members()
        thetas, parts = [], []
        for k, s in _segments(self, layout):
            new, kept = rules[k].rule(
                theta[..., s], {n: v[..., s] for n, v in slots.items()}, g[..., s], t, lrs[k]
            )
            thetas.append(new)
            parts.append(kept)
        return torch.cat(thetas, -1), {n: torch.cat([p[n] for p in parts], -1) for n in slots}

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
    ) -> tuple[Tensor, Tensor, Slots]:
        """The adjoint of `step`: (c, a, a_slots) before the step from (a, a_slots) after it.

        c [..., param] is the adjoint of the mean gradient: example j's share is -<c, g_j> / b, and the
        caller adds H c to a. g is the unclipped mean gradient, None allowed where `uses_gradient` is False.
        """
        raw = g
        if self.clip_norm is not None:
            assert raw is not None
            g, scale, norm = _clip(layout, raw, self.clip_norm)
        if not self._in_pieces(theta):
            c, a, a_slots = self.rule_pullback(theta, slots, g, t, lrs[0], a, a_slots)  # type: ignore
        else:
            rules = self.members()
            cs, das, parts = [], [], []
            for k, s in _segments(self, layout):
                part = rules[k].rule_pullback(
                    theta[..., s],
                    {n: v[..., s] for n, v in slots.items()},
                    None if g is None else g[..., s],  # type: ignore[arg-type]
                    t,
                    lrs[k],
                    a[..., s],
                    {n: v[..., s] for n, v in a_slots.items()},
                )
                cs.append(part[0])
                das.append(part[1])
                parts.append(part[2])
            c, a = torch.cat(cs, -1), torch.cat(das, -1)
            a_slots = {n: torch.cat([p[n] for p in parts], -1) for n in a_slots}
        if self.clip_norm is not None and bool(scale < 1.0):
            # d(s g) = s (dg - unit <unit, dg> n / (n + 1e-6)), as s = max / (n + 1e-6)
            unit = torch.div(raw, norm)  # type: ignore[arg-type]
            c = scale * (c - unit * ((c @ unit) * (norm / (norm + 1e-6))).unsqueeze(-1))
        return c, a, a_slots

    def _in_pieces(self, theta: Tensor) -> bool:
        """Whether a rule, which is elementwise, is applied to one piece after the other: group by group, and
        on a CPU in pieces whose intermediate results stay in its caches."""
        return bool(self.groups) or (theta.device.type == "cpu" and theta.shape[-1] > _PIECE)

    def needs_gradient(self) -> bool:
        """Whether `pullback` reads g."""
        return self.uses_gradient or self.clip_norm is not None


@lru_cache(maxsize=64)
def _segments(optimizer: Optimizer, layout: Layout) -> list[tuple[int, slice]]:
    """(group, slice of theta), adjoining parameters of one group merged, and cut into pieces."""
    merged: list[tuple[int, int, int]] = []
    start = 0
    for k, size in zip(optimizer.owners(layout), layout.sizes, strict=True):
        if merged and merged[-1][0] == k:
            merged[-1] = (k, merged[-1][1], start + size)
        else:
            merged.append((k, start, start + size))
        start += size
    return [
        (k, slice(low, min(low + _PIECE, high)))
        for k, first, high in merged
        for low in range(first, high, _PIECE)
    ]


def _clip(layout: Layout, g: Tensor, limit: float) -> tuple[Tensor, Tensor, Tensor]:
    """(clipped g, scale, norm) as `torch.nn.utils.clip_grad_norm_`: the norm of the parameters' norms."""
    norms = [torch.linalg.vector_norm(part, dim=-1) for part in g.split(layout.sizes, dim=-1)]
    norm = torch.linalg.vector_norm(torch.stack(norms, -1), dim=-1)
    scale = torch.clamp(limit / (norm + 1e-6), max=1.0)
    return g * scale.unsqueeze(-1), scale, norm
