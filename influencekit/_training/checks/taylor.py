"""A Taylor test at the door: is the pull of a step the derivative of its gradient, and of its buffers'
updates?

Autograd is silent where a model hides part of a dependence from it: a detached target, statistics computed
under `no_grad` or as Python numbers, a backward of one's own that has no derivative. Central differences see
it all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from influencekit._training.batch import batch_in_float64
from influencekit._training.buffers import flat
from influencekit._training.checks.padding import left_padding_first
from influencekit._training.curvature import gradient, leaf
from influencekit._training.parts import Part
from influencekit._training.reverse import Reversed
from influencekit.errors import InfluenceKitError, InputError

__all__ = ["check_pull", "is_derivative", "slopes_differ", "some_vector"]

_SIZES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-7, 1e-8)  # relative step sizes: one of them is right for nearly
# every model, 1e-2 where a deep one computes its norms in float32, 1e-8 where a ReLU is about to turn
_FINE = 1e-5  # how far the two may be apart at the best of them in float64
_ROUGH = 5e-3  # where differences show noise or corners: parts in float32, as some models compute their norms
_GROSS = 0.5  # and in float32, where differences are all but noise
_PERIOD = 1 << 16  # after which `some_vector` begins again: cosines of millions are slow


def check_pull(part: Part, theta: Tensor, coefficients: Tensor) -> None:
    """Refuse a model of which first-order scores would be wrong, seen on a part of a few examples.

    In float64, on a copy of the model; in its own precision, and only for gross errors, where its loss cannot
    be evaluated in float64. Cost: three gradients and a pull each time. Errors: no second derivative;
    derivatives that are not those of the values.
    """
    try:
        wrong = _pull_is_wrong(_wide(part), theta.double(), coefficients.double())
    except InfluenceKitError:
        raise
    except (RuntimeError, TypeError, ValueError):  # a loss that holds tensors of its own in float32
        wrong = _pull_is_wrong(part, theta, coefficients)
    if wrong:
        raise InputError(
            "this model's gradient depends on its parameters or buffers in a way that autograd does not see "
            "(detach, no_grad, .item(), or a backward of its own without a right derivative), so first-order "
            f"scores would be wrong; {left_padding_first(part.batch)}use loo, or compute that part by "
            "differentiable operations"
        )


def _wide(part: Part) -> Part:
    return part._replace(batch=batch_in_float64(part.batch), losses=part.losses.in_double())


def _pull_is_wrong(part: Part, theta: Tensor, coefficients: Tensor) -> bool:
    """Whether central differences contradict the pull."""
    _, batch, view = part
    z = view.z(theta)
    c, a = some_vector(theta, 1.7), some_vector(flat(view.buffers, z), 2.3)
    pull, _ = Reversed.of(part, "hessian", theta, coefficients)(c, a)

    def slope(z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.enable_grad():
            start = leaf(z)
            losses, after = view.with_buffers_after(start, batch)
            return gradient((coefficients * losses).sum(), start), after

    def valued(z: Tensor, g: Tensor, after: dict[str, Tensor]) -> Tensor:
        found = (g + view.l2 * coefficients.sum() * view.of_theta(z))[: len(c)] @ c
        return found + flat(after, z) @ a if len(a) else found

    here = slope(z)
    # where training never goes nothing is asked: some layers keep signs or whole numbers in a parameter
    moves = torch.cat([here[0][: len(c)] != 0, torch.ones_like(a, dtype=torch.bool)])
    direction = some_vector(z, 0.9) * _size(z) * moves
    middle = valued(z, *here)
    scale = (pull * direction).norm() + 1e-6 * float(middle.abs()) + 1e-12
    return _contradicted(lambda z: valued(z, *slope(z)), middle, z, direction, pull @ direction, scale)


def _contradicted(
    value: Callable[[Tensor], Tensor], middle: Tensor, z: Tensor, direction: Tensor, slope: Tensor,
    scale: Tensor,
) -> bool:  # fmt: skip
    """Whether differences of `value` along a direction are not its `slope`, relative to `scale`; `middle` is
    its value at z.

    At the best step size. Second differences tell how much of it is noise. So do smaller steps: a gap that is
    rounding shrinks as steps grow, and one of a wrong slope stays.
    """
    fine = z.dtype == torch.float64
    gaps, noise = dict[float, float](), []
    for h in _SIZES if fine else (1e-3, 1e-2):
        above, below = value(z + h * direction), value(z - h * direction)
        gap = gaps[h] = float(((above - below) / (2 * h) - slope).abs() / scale)
        noise.append(float((above + below - 2 * middle).abs() / h / scale))
        rounding = max((3 * gaps[k] * k for k in gaps if k < h), default=0.0)
        if gap <= _FINE or (fine and gap <= min(rounding / h, _ROUGH)):
            return False
    return min(gaps.values()) > (min(max(_FINE, 10 * min(noise)), _ROUGH) if fine else _GROSS)


def is_derivative(part: Part, theta: Tensor, coefficients: Tensor) -> bool:
    """Whether the gradient of a few examples' losses is the derivative of their values.

    It need not be: torch itself takes the inputs of CTC for normalised; losses add what is detached. Training
    follows the gradient and its derivative, but queries by the same loss would have a wrong gradient. Cost: a
    gradient and a few losses.
    """

    def mean(part: Part, theta: Tensor, c: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        return lambda z: (c * part.losses.losses(z, part.batch)).sum(), part.losses.z(theta)

    return not slopes_differ(
        lambda: mean(_wide(part), theta.double(), coefficients.double()),
        lambda: mean(part, theta, coefficients),
    )


Valued = Callable[[], tuple[Callable[[Tensor], Tensor], Tensor]]  # a function, and where


def slopes_differ(wide: Valued, own: Valued) -> bool:
    """Whether differences contradict a gradient: in float64, or grossly in its own precision."""
    try:
        return _slope_is_wrong(*wide())
    except (RuntimeError, TypeError, ValueError):
        return _slope_is_wrong(*own())


def _slope_is_wrong(value: Callable[[Tensor], Tensor], z: Tensor) -> bool:
    with torch.enable_grad():
        start = leaf(z)
        found = value(start)
        if not found.requires_grad:
            return False
        g = gradient(found, start)
    size = z.norm() + 1e-3
    direction = size * (g / (g.norm() + 1e-30) + some_vector(z, 0.9) * (g != 0) / len(z) ** 0.5)
    scale = g.norm() * direction.norm() + 1e-6 * found.detach().abs() + 1e-12
    with torch.no_grad():
        return _contradicted(value, found.detach(), z, direction, g @ direction, scale)


def some_vector(x: Tensor, rate: float) -> Tensor:
    """A vector like x, the same every time, without touching a generator."""
    some = torch.arange(min(len(x), _PERIOD), device=x.device, dtype=x.dtype)
    return torch.cos(some * rate + 0.3).repeat(-(-len(x) // _PERIOD) or 1)[: len(x)]


def _size(z: Tensor) -> Tensor:
    """How large an entry is: its own size, and at least a hundredth of the typical one; of one that is 0, as
    half of an adapter is before its first step, the typical one."""
    typical = float(z.norm()) / max(len(z), 1) ** 0.5
    return torch.where(z == 0, typical or 1e-3, z.abs().clamp(min=typical * 1e-2 or 1e-3))
