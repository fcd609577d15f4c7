"""Adafactor and Muon, whose rules see whole parameters; equal bit for bit to `torch.optim` on the CPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from influencekit._arguments import real_number, whole_number
from influencekit._training.optimizer import Optimizer, Slots
from influencekit.errors import InputError

__all__ = ["Adafactor", "Muon"]


@dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """Adafactor as `torch.optim.Adafactor`: the mean squares of a matrix's rows and columns in place of v.

    Slots: `row_var` and `col_var`, packed at the beginning of a parameter's entries, the rest 0; `row_var`
    is v itself for a parameter of one dimension or none. The adjoint is by autodiff.

    Example:

        >>> import influencekit as ik
        >>> ik.Adafactor(lr=0.01).slots
        ('row_var', 'col_var')
    """

    beta2_decay: float = -0.8
    eps: tuple[float | None, float] = (None, 1e-3)
    d: float = 1.0
    weight_decay: float = 0.0

    slots = ("row_var", "col_var")
    elementwise = False
    stands_for = torch.optim.Adafactor

    def __post_init__(self) -> None:
        super().__post_init__()
        real_number("Adafactor: d", self.d, 1)
        real_number("Adafactor: beta2_decay", self.beta2_decay, most=0)

    def slots_of(self, state: Mapping[str, Any], like: Tensor) -> Slots:
        row = state.get("row_var", state.get("variance"))
        found = {"row_var": row, "col_var": state.get("col_var")}
        return {n: torch.zeros_like(like) if x is None else _packed(x, like) for n, x in found.items()}

    def state_of(self, slots: Slots, updates: int) -> dict[str, Any]:
        row, col = slots["row_var"], slots["col_var"]
        found = {"variance": row}
        if row.dim() > 1:
            found = {"row_var": _unpacked(row, -1), "col_var": _unpacked(col, -2)}
        return super().state_of(found, updates)

    def rule(self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float) -> tuple[Tensor, Slots]:
        step = float(t + 1)
        eps1, eps2 = self.eps
        eps1 = torch.finfo(theta.dtype).eps if eps1 is None else eps1
        fresh = step**self.beta2_decay
        # numbers in float64, as torch.optim takes them
        size = torch.linalg.vector_norm(theta).double() / theta.numel() ** 0.5
        alpha = size.clamp(min=eps2) * min(lr, 1 / step**0.5)
        if self.weight_decay:
            theta = theta.mul(1 - lr * self.weight_decay)
        if theta.dim() > 1:
            row = _unpacked(slots["row_var"], -1).lerp(_mean_square(g, -1), fresh)
            col = _unpacked(slots["col_var"], -2).lerp(_mean_square(g, -2), fresh)
            v = row @ col / row.mean(-2, keepdim=True).clamp(min=eps1)
            slots = {"row_var": _packed(row, theta), "col_var": _packed(col, theta)}
        else:
            v = slots["row_var"].lerp(g * g, fresh)
            slots = {**slots, "row_var": v}
        update = v.clamp(min=eps1 * eps1).rsqrt() * g
        root = torch.linalg.vector_norm(update).double() / (update.numel() ** 0.5 * self.d)
        return torch.addcmul(theta, update, (-alpha / root.clamp(min=1.0)).to(theta)), slots


def _mean_square(g: Tensor, dim: int) -> Tensor:
    return torch.linalg.vector_norm(g, dim=dim, keepdim=True).square().div(g.shape[dim])


def _packed(x: Tensor, like: Tensor) -> Tensor:
    """The entries of x, then zeros, in the shape of `like`."""
    flat = x.reshape(-1)
    return torch.cat([flat, flat.new_zeros(like.numel() - len(flat))]).reshape(like.shape)


def _unpacked(x: Tensor, dim: int) -> Tensor:
    """The first entries of x, as many as are left when dimension `dim` has one."""
    shape = list(x.shape)
    shape[dim] = 1
    return x.reshape(-1)[: x.numel() // x.shape[dim]].reshape(shape)


@dataclass(frozen=True, kw_only=True)
class Muon(Optimizer):
    """Momentum made orthogonal as `torch.optim.Muon`, for matrices; weight decay is decoupled.

    The Newton-Schulz iteration runs in bfloat16, whose rounding is about 0.4 % of a number. The step has
    torch's bits; the derivative is that of the iteration without rounding, at the recorded momentum, since
    a rounded function has none. Retrained runs (`loo`) round as the run did, one after the other.

    Example:

        >>> import influencekit as ik
        >>> ik.Muon(lr=0.02).slots
        ('momentum_buffer',)
    """

    weight_decay: float = 0.1
    momentum: float = 0.95
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315)
    eps: float = 1e-7
    ns_steps: int = 5
    adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None

    slots = ("momentum_buffer",)
    elementwise = False
    rounds = True
    stands_for = torch.optim.Muon

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.maximize:
            raise InputError("Muon: torch.optim.Muon has no maximize; change the sign of the loss")
        whole_number("Muon: ns_steps", self.ns_steps, 1, 99)

    def state_of(self, slots: Slots, updates: int) -> dict[str, Any]:
        return dict(slots) if updates else {}

    def rule(self, theta: Tensor, slots: Slots, g: Tensor, t: int, lr: float) -> tuple[Tensor, Slots]:
        if theta.dim() != 2:
            raise InputError(
                f"Muon trains matrices, and got a parameter of shape {list(theta.shape)}; freeze it, or "
                "train with another optimizer"
            )
        rows, columns = theta.shape
        b = slots["momentum_buffer"].lerp(g, 1 - self.momentum)
        update = g.lerp(b, self.momentum) if self.nesterov else b
        update = _Orthogonal.apply(update, self.ns_coefficients, self.ns_steps, self.eps)  # type: ignore
        ratio = max(1, rows / columns) ** 0.5
        if self.adjust_lr_fn == "match_rms_adamw":
            ratio = 0.2 * max(rows, columns) ** 0.5
        theta = theta.mul(1 - lr * self.weight_decay)
        return theta.add(update, alpha=-(lr * ratio)), {"momentum_buffer": b}


_ROUNDED = torch.bfloat16


class _Orthogonal(torch.autograd.Function):
    """Newton-Schulz in bfloat16, with the derivatives of the same iteration in the precision of its input."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
        return _newton_schulz(x.to(_ROUNDED), coefficients, steps, eps).to(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.settings = inputs[1:]

    @staticmethod
    def backward(ctx: Any, a: Tensor) -> Any:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        vjp = torch.func.vjp(lambda x: _newton_schulz(x, *ctx.settings), x)[1]
        return vjp(a)[0], None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *rest: Any) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return torch.func.jvp(lambda x: _newton_schulz(x, *ctx.settings), (x,), (tangent,))[1]


def _newton_schulz(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The matrix x with its singular values moved to about 1, computed in its own dtype."""
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / torch.linalg.vector_norm(x).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
