"""SGD, Adam and AdamW, equal bit for bit to `torch.optim` on the CPU, with closed-form adjoints."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from influencekit._training.optimizer import Optimizer, Slots
from influencekit.errors import InputError

__all__ = ["SGD", "Adam", "AdamW"]


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


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam as `torch.optim.Adam`, with weight decay coupled to the gradient; amsgrad is not offered.

    The derivative of sqrt(v) at v = 0 is taken as 0: v is 0 only where the gradient has always been 0,
    and there no example has a share in it.

    Example:

        >>> import influencekit as ik
        >>> ik.Adam(lr=1e-3).slots
        ('exp_avg', 'exp_avg_sq')
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    slots = ("exp_avg", "exp_avg_sq")
    decoupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"{type(self).__name__}: betas must lie in [0, 1), got {self.betas}")

    def rule(self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float) -> tuple[Tensor, Slots]:
        beta1, beta2 = self.betas
        if self.weight_decay and self.decoupled:
            theta = theta.mul(1 - lr * self.weight_decay)
        elif self.weight_decay:
            g = g.add(theta, alpha=self.weight_decay)
        m = slots["exp_avg"].lerp(g, 1 - beta1)
        v = slots["exp_avg_sq"].mul(beta2).addcmul(g, g, value=1 - beta2)
        rho1, rho2 = 1 - beta1 ** (t + 1), (1 - beta2 ** (t + 1)) ** 0.5
        denominator = (_sqrt(v) / rho2).add(self.eps)
        theta = theta.addcdiv(m, denominator, value=-(lr / rho1))
        return theta, {"exp_avg": m, "exp_avg_sq": v}

    def rule_pullback(
        self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float, a: Tensor, a_slots: Slots
    ) -> tuple[Tensor, Tensor, Slots]:
        beta1, beta2 = self.betas
        if self.weight_decay and not self.decoupled:
            g = g.add(theta, alpha=self.weight_decay)
        m = slots["exp_avg"].lerp(g, 1 - beta1)
        root = slots["exp_avg_sq"].mul(beta2).addcmul_(g, g, value=1 - beta2).sqrt_()
        rho1, rho2 = 1 - beta1 ** (t + 1), (1 - beta2 ** (t + 1)) ** 0.5
        scaled = root.add(rho2 * self.eps)  # the denominator of the update, times rho2
        rate, a_m, a_v = lr * rho2 / rho1, a_slots["exp_avg"], a_slots["exp_avg_sq"]
        b_m = torch.addcdiv(a_m, a, scaled, value=-rate)
        ratio = m.div_(scaled)
        b_v = torch.addcdiv(
            a_v, a * ratio, scaled.mul_(root).masked_fill_(root == 0, torch.inf), value=rate / 2
        )
        c = torch.addcmul(b_m * (1 - beta1), b_v, g, value=2 * (1 - beta2))
        if self.weight_decay:
            a = a * (1 - lr * self.weight_decay) if self.decoupled else a + self.weight_decay * c
        return c, a, {"exp_avg": beta1 * b_m, "exp_avg_sq": beta2 * b_v}


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay as `torch.optim.AdamW`, whose default decay of 0.01 it shares.

    Example:

        >>> import influencekit as ik
        >>> ik.AdamW(lr=1e-3).weight_decay
        0.01
    """

    weight_decay: float = 0.01
    decoupled = True


def _sqrt(v: Tensor) -> Tensor:
    """sqrt with derivative 0 at 0; the values are those of torch.sqrt."""
    positive = v > 0
    return torch.where(positive, torch.where(positive, v, 1.0).sqrt(), v * 0.0)
