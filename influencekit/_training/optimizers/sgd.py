"""Stochastic gradient descent, equal bit for bit to `torch.optim` on the CPU, with closed-form adjoints."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from influencekit._training.optimizer import Optimizer, Slots
from influencekit.errors import InputError

__all__ = ["SGD"]


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent as `torch.optim.SGD`: momentum, Nesterov, coupled weight decay.

    Example:

        >>> import influencekit as ik
        >>> ik.SGD(lr=0.1, momentum=0.9).slots
        ('momentum_buffer',)
    """

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    uses_gradient = False
    stands_for = torch.optim.SGD

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise InputError("SGD: Nesterov momentum needs momentum above 0 and dampening 0")

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        anywhere = self.momentum or any(group.changes.get("momentum") for group in self.groups)
        return ("momentum_buffer",) if anywhere else ()

    @property
    def gain(self) -> float:
        """(1 - dampening) / (1 - momentum), with Nesterov's momentum or without; inf where nothing decays."""
        if not self.momentum:
            return 1.0
        return (1 - self.dampening) / (1 - self.momentum) if self.momentum < 1 else float("inf")

    def rule(self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float) -> tuple[Tensor, Slots]:
        if self.weight_decay:
            g = g.add(theta, alpha=self.weight_decay)
        if self.momentum:
            v = slots["momentum_buffer"]
            v = g if t == 0 else v.mul(self.momentum).add_(g, alpha=1 - self.dampening)
            slots = {"momentum_buffer": v}
            g = g.add(v, alpha=self.momentum) if self.nesterov else v
        return theta.add(g, alpha=-lr), slots

    def rule_pullback(
        self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float, a: Tensor, a_slots: Slots
    ) -> tuple[Tensor, Tensor, Slots]:
        if not self.momentum:
            c = a * -lr
        else:
            keep, fresh = (0.0, 1.0) if t == 0 else (self.momentum, 1 - self.dampening)
            b = torch.add(a_slots["momentum_buffer"], a, alpha=-lr * (self.momentum if self.nesterov else 1))
            c = b * fresh
            if self.nesterov:
                c = c.add_(a, alpha=-lr)
            a_slots = {"momentum_buffer": b * keep}
        if self.weight_decay:
            a = a.add(c, alpha=self.weight_decay)
        return c, a, a_slots

    def state_of(self, slots: Slots, updates: int) -> dict[str, Any]:
        return dict(slots) if updates else {}
