"""Adam and AdamW, equal bit for bit to `torch.optim` on the CPU, with closed-form adjoints."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from influencekit._training.optimizer import Optimizer, Slots, since_0_3
from influencekit._training.optimizers.root import sqrt

__all__ = ["Adam", "AdamW"]


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam as `torch.optim.Adam`, with weight decay coupled to the gradient.

    `amsgrad` divides by the root of the largest v so far.

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
    amsgrad: bool = since_0_3(False)

    decoupled: ClassVar[bool] = False
    stands_for: ClassVar[type[torch.optim.Optimizer] | None] = torch.optim.Adam

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        anywhere = self.amsgrad or any(group.changes.get("amsgrad") for group in self.groups)
        return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if anywhere else ()))

    def rule(self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float) -> tuple[Tensor, Slots]:
        beta1, beta2 = self.betas
        if self.weight_decay and self.decoupled:
            theta = theta.mul(1 - lr * self.weight_decay)
        elif self.weight_decay:
            g = g.add(theta, alpha=self.weight_decay)
        m = slots["exp_avg"].lerp(g, 1 - beta1)
        v = slots["exp_avg_sq"].mul(beta2).addcmul(g, g, value=1 - beta2)
        rho1, rho2 = 1 - beta1 ** (t + 1), (1 - beta2 ** (t + 1)) ** 0.5
        slots = {**slots, "exp_avg": m, "exp_avg_sq": v}
        if self.amsgrad:
            v = slots["max_exp_avg_sq"] = torch.maximum(slots["max_exp_avg_sq"], v)
        denominator = (sqrt(v) / rho2).add(self.eps)
        return theta.addcdiv(m, denominator, value=-(lr / rho1)), slots

    def rule_pullback(
        self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float, a: Tensor, a_slots: Slots
    ) -> tuple[Tensor, Tensor, Slots]:
        beta1, beta2 = self.betas
        if self.weight_decay and not self.decoupled:
            g = g.add(theta, alpha=self.weight_decay)
        m = slots["exp_avg"].lerp(g, 1 - beta1)
        v = slots["exp_avg_sq"].mul(beta2).addcmul_(g, g, value=1 - beta2)
        if self.amsgrad:
            before = slots["max_exp_avg_sq"]
            grown = ((v > before).to(v) + (v >= before).to(v)) / 2  # how v moves the larger of the two
            root = torch.maximum(before, v).sqrt_()
        else:
            root = v.sqrt_()
        rho1, rho2 = 1 - beta1 ** (t + 1), (1 - beta2 ** (t + 1)) ** 0.5
        scaled = root.add(rho2 * self.eps)  # the denominator of the update, times rho2
        rate, a_m, a_v = lr * rho2 / rho1, a_slots["exp_avg"], a_slots["exp_avg_sq"]
        b_m = torch.addcdiv(a_m, a, scaled, value=-rate)
        ratio = m.div_(scaled)
        of_root = a_slots["max_exp_avg_sq"] if self.amsgrad else a_v
        b_v = torch.addcdiv(
            of_root, a * ratio, scaled.mul_(root).masked_fill_(root == 0, torch.inf), value=rate / 2
        )
        a_slots = dict(a_slots)
        if self.amsgrad:
            a_slots["max_exp_avg_sq"] = b_v * (1 - grown)
            b_v = torch.addcmul(a_v, b_v, grown)
        c = torch.addcmul(b_m * (1 - beta1), b_v, g, value=2 * (1 - beta2))
        if self.weight_decay:
            a = a * (1 - lr * self.weight_decay) if self.decoupled else a + self.weight_decay * c
        return c, a, {**a_slots, "exp_avg": beta1 * b_m, "exp_avg_sq": beta2 * b_v}


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
    stands_for = torch.optim.AdamW
