"""RMSprop, Adagrad and Adadelta, equal bit for bit to `torch.optim` on the CPU; adjoints by autodiff.

The derivative of sqrt at 0 is taken as 0: it is reached only where the gradient has always been 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from influencekit._training.optimizer import Optimizer, Slots
from influencekit._training.optimizers.root import sqrt
from influencekit.errors import InputError

__all__ = ["Adadelta", "Adagrad", "RMSprop"]


@dataclass(frozen=True, kw_only=True)
class RMSprop(Optimizer):
    """RMSprop as `torch.optim.RMSprop`: plain or `centered`, with momentum, weight decay in the gradient.

    Example:

        >>> import influencekit as ik
        >>> ik.RMSprop(lr=0.01, momentum=0.9).slots
        ('square_avg', 'momentum_buffer')
    """

    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False

    stands_for = torch.optim.RMSprop

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        settings = [vars(self), *(group.changes for group in self.groups)]
        momentum = ("momentum_buffer",) if any(s.get("momentum") for s in settings) else ()
        return ("square_avg", *momentum, *(("grad_avg",) if any(s.get("centered") for s in settings) else ()))

    @property
    def gain(self) -> float:
        """1 / (1 - momentum); inf where nothing decays."""
        return 1 / (1 - self.momentum) if self.momentum < 1 else float("inf")

    def rule(self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float) -> tuple[Tensor, Slots]:
        if self.weight_decay:
            g = g.add(theta, alpha=self.weight_decay)
        v = slots["square_avg"].mul(self.alpha).addcmul(g, g, value=1 - self.alpha)
        slots = {**slots, "square_avg": v}
        if self.centered:
            m = slots["grad_avg"] = slots["grad_avg"].lerp(g, 1 - self.alpha)
            v = v.addcmul(m, m, value=-1)
        denominator = sqrt(v).add(self.eps)
        if not self.momentum:
            return theta.addcdiv(g, denominator, value=-lr), slots
        b = slots["momentum_buffer"] = slots["momentum_buffer"].mul(self.momentum).addcdiv(g, denominator)
        return theta.add(b, alpha=-lr), slots


@dataclass(frozen=True, kw_only=True)
class Adagrad(Optimizer):
    """Adagrad as `torch.optim.Adagrad`, weight decay in the gradient.

    Example:

        >>> import influencekit as ik
        >>> ik.Adagrad(lr=0.1, lr_decay=0.01).slots
        ('sum',)
    """

    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10

    slots = ("sum",)
    stands_for = torch.optim.Adagrad

    def __post_init__(self) -> None:
        super().__post_init__()
        name, own = "initial_accumulator_value", self.initial_accumulator_value
        if any(group.changes.get(name, own) != own for group in self.groups):
            raise InputError("Adagrad: initial_accumulator_value is the same for all groups")

    def start(self, theta: Tensor) -> Slots:
        return {"sum": torch.full_like(theta, self.initial_accumulator_value)}

    def rule(self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float) -> tuple[Tensor, Slots]:
        if self.weight_decay:
            g = g.add(theta, alpha=self.weight_decay)
        total = slots["sum"].addcmul(g, g, value=1)
        rate = lr / (1 + t * self.lr_decay)
        return theta.addcdiv(g, sqrt(total).add(self.eps), value=-rate), {"sum": total}


@dataclass(frozen=True, kw_only=True)
class Adadelta(Optimizer):
    """Adadelta as `torch.optim.Adadelta`, weight decay in the gradient.

    Example:

        >>> import influencekit as ik
        >>> ik.Adadelta(lr=1.0).slots
        ('square_avg', 'acc_delta')
    """

    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.0

    slots = ("square_avg", "acc_delta")
    stands_for = torch.optim.Adadelta

    def rule(self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float) -> tuple[Tensor, Slots]:
        if self.weight_decay:
            g = g.add(theta, alpha=self.weight_decay)
        v = slots["square_avg"].mul(self.rho).addcmul(g, g, value=1 - self.rho)
        moved = sqrt(slots["acc_delta"].add(self.eps)).div(sqrt(v.add(self.eps))).mul(g)
        squares = slots["acc_delta"].mul(self.rho).addcmul(moved, moved, value=1 - self.rho)
        return theta.add(moved, alpha=-lr), {"square_avg": v, "acc_delta": squares}
