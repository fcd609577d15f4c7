"""NAdam, RAdam and Adamax, equal bit for bit to `torch.optim` on the CPU; adjoints by autodiff.

The derivative of sqrt at 0 is taken as 0, that of |g| too, and a maximum of equals has half of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from influencekit._training.optimizer import Optimizer, Slots
from influencekit._training.optimizers.root import sqrt
from influencekit.errors import InputError

__all__ = ["Adamax", "NAdam", "RAdam"]


@dataclass(frozen=True, kw_only=True)
class NAdam(Optimizer):
    """Adam with Nesterov momentum as `torch.optim.NAdam`, weight decay coupled or decoupled.

    The slot `mu_product`, the product of the momenta so far, holds one number in every entry.

    Example:

        >>> import influencekit as ik
        >>> ik.NAdam(lr=2e-3).slots
        ('exp_avg', 'exp_avg_sq', 'mu_product')
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum_decay: float = 4e-3
    decoupled_weight_decay: bool = False

    slots = ("exp_avg", "exp_avg_sq", "mu_product")
    stands_for = torch.optim.NAdam

    def start(self, theta: Tensor) -> Slots:
        return {**super().start(theta), "mu_product": torch.ones_like(theta)}

    def slots_of(self, state: Mapping[str, Any], like: Tensor) -> Slots:
        return super().slots_of({"mu_product": torch.ones((), dtype=like.dtype), **state}, like)

    def state_of(self, slots: Slots, updates: int) -> dict[str, Any]:
        product = slots["mu_product"].reshape(-1)[0].to("cpu", _number(), copy=True)
        return {**super().state_of(slots, updates), "mu_product": product}

    def rule(self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float) -> tuple[Tensor, Slots]:
        (beta1, beta2), step = self.betas, float(t + 1)
        theta, g = _decayed(self, theta, g, lr)
        mu = beta1 * (1.0 - 0.5 * (0.96 ** (step * self.momentum_decay)))
        following = beta1 * (1.0 - 0.5 * (0.96 ** ((step + 1) * self.momentum_decay)))
        product = slots["mu_product"].to(_number()).mul(mu)
        m = slots["exp_avg"].lerp(g, 1 - beta1)
        v = slots["exp_avg_sq"].mul(beta2).addcmul(g, g, value=1 - beta2)
        denominator = sqrt(v.div(1 - beta2**step)).add(self.eps)
        one = product[..., :1].double()  # all entries are the same; numbers are of float64 in torch.optim
        of_g = torch.full_like(one, -lr * (1.0 - mu)) / (1.0 - one)
        of_m = torch.full_like(one, -lr * following) / (1.0 - one * following)
        theta = theta.addcdiv(g * of_g.to(g), denominator).addcdiv(m * of_m.to(m), denominator)
        return theta, {"exp_avg": m, "exp_avg_sq": v, "mu_product": product.to(v)}


@dataclass(frozen=True, kw_only=True)
class RAdam(Optimizer):
    """Rectified Adam as `torch.optim.RAdam`, weight decay coupled or decoupled.

    Example:

        >>> import influencekit as ik
        >>> ik.RAdam(lr=1e-3).slots
        ('exp_avg', 'exp_avg_sq')
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False

    slots = ("exp_avg", "exp_avg_sq")
    stands_for = torch.optim.RAdam

    def rule(self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float) -> tuple[Tensor, Slots]:
        (beta1, beta2), step = self.betas, float(t + 1)
        theta, g = _decayed(self, theta, g, lr)
        m = slots["exp_avg"].lerp(g, 1 - beta1)
        v = slots["exp_avg_sq"].mul(beta2).addcmul(g, g, value=1 - beta2)
        rho2 = 1 - beta2**step
        longest = 2 / (1 - beta2) - 1  # rho_inf of the paper, and rho_t
        length = longest - 2 * step * (beta2**step) / rho2
        update = m / (1 - beta1**step) * lr
        if length > 5.0:
            over = (length - 4) * (length - 2) * longest
            rectified = (over / ((longest - 4) * (longest - 2) * length)) ** 0.5
            update = update * (rho2**0.5 / sqrt(v).add(self.eps)) * rectified
        return theta.add(update, alpha=-1.0), {"exp_avg": m, "exp_avg_sq": v}


@dataclass(frozen=True, kw_only=True)
class Adamax(Optimizer):
    """Adam in the maximum norm as `torch.optim.Adamax`, weight decay in the gradient.

    Example:

        >>> import influencekit as ik
        >>> ik.Adamax(lr=2e-3).slots
        ('exp_avg', 'exp_inf')
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    slots = ("exp_avg", "exp_inf")
    stands_for = torch.optim.Adamax

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.eps > 0:
            raise InputError("Adamax: eps must be above 0, else an entry without gradient becomes NaN")

    def rule(self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float) -> tuple[Tensor, Slots]:
        beta1, beta2 = self.betas
        if self.weight_decay:
            g = g.add(theta, alpha=self.weight_decay)
        m = slots["exp_avg"].lerp(g, 1 - beta1)
        largest = torch.maximum(slots["exp_inf"].mul(beta2), g.abs().add(self.eps))
        rate = lr / (1 - beta1 ** float(t + 1))
        return theta.addcdiv(m, largest, value=-rate), {"exp_avg": m, "exp_inf": largest}


def _decayed(rule: NAdam | RAdam, theta: Tensor, g: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    """theta and g after weight decay."""
    if rule.weight_decay and rule.decoupled_weight_decay:
        return theta.mul(1 - lr * rule.weight_decay), g
    return theta, g.add(theta, alpha=rule.weight_decay) if rule.weight_decay else g


def _number() -> torch.dtype:
    """In what torch.optim keeps numbers that are not parameters."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
