"""The corners of a model, found while it is called, and what derivatives see in their place.

A corner is where a function has no derivative: of `relu`, `leaky_relu`, `abs` and `clamp(min=number)`, as
functions, methods or modules. Each is made of relu, so that only relu has to be replaced:

    leaky_relu(a) = s a + (1 - s) relu(a),    abs(a) = 2 relu(a) - a,    clamp(a, min=m) = m + relu(a - m)

Max pooling, and other functions with corners, are left as they are.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Corners", "smoothed"]

Relu = Callable[[Tensor], Tensor]


class Corners(TorchFunctionMode):
    """Within it, `relu` takes the place of the corner in every function that has one, in their order."""

    def __init__(self, relu: Relu) -> None:
        super().__init__()
        self._relu = relu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = _CORNERS[func](self._relu, *args, **kwargs) if func in _CORNERS else NotImplemented
        return func(*args, **kwargs) if made is NotImplemented else made


def smoothed(a: Tensor, width: Tensor) -> Tensor:
    """relu(a), whose first derivative is Phi(a/h) and whose second is phi(a/h)/h, with h = `width`.

    Phi and phi are the standard normal distribution and its density.
    """
    z = a / width
    s = a * (0.5 + 0.5 * torch.erf(z / math.sqrt(2)))
    s = s + width * (torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi))
    return s + (torch.relu(a) - s).detach()


def _relu(relu: Relu, input: Tensor, inplace: bool = False) -> Any:
    return _changed(_relu, relu, input) if inplace else relu(input)


def _leaky(relu: Relu, input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    if inplace:
        return _changed(_leaky, relu, input, negative_slope)
    return negative_slope * input + (1 - negative_slope) * relu(input)


def _abs(relu: Relu, input: Tensor) -> Any:
    return 2 * relu(input) - input if input.is_floating_point() else NotImplemented


def _clamp(relu: Relu, input: Tensor, min: Any = None, max: Any = None) -> Any:
    if max is not None or not isinstance(min, int | float) or not input.is_floating_point():
        return NotImplemented
    return min + relu(input - min)


def _changed(corner: Callable[..., Any], relu: Relu, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """`input`, changed in place by a corner, whose derivatives need what it was."""
    found = corner(relu, input.clone(), *args, **kwargs)
    return found if found is NotImplemented else input.copy_(found)


_CORNERS: dict[Any, Callable[..., Any]] = {
    **{f: _relu for f in (F.relu, torch.relu, Tensor.relu)},
    **{f: _leaky for f in (F.leaky_relu, torch._C._nn.leaky_relu)},
    **{f: _abs for f in (torch.abs, torch.absolute, Tensor.abs, Tensor.absolute, Tensor.__abs__)},
    **{f: _clamp for f in (torch.clamp, torch.clip, torch.clamp_min, Tensor.clamp, Tensor.clip)},
    Tensor.clamp_min: _clamp,
    **{f: partial(_changed, _relu) for f in (torch.relu_, Tensor.relu_)},
    torch._C._nn.leaky_relu_: partial(_changed, _leaky),
    **{f: partial(_changed, _abs) for f in (torch.abs_, Tensor.abs_)},
    **{
        f: partial(_changed, _clamp)
        for f in (torch.clamp_, Tensor.clamp_, torch.clamp_min_, Tensor.clamp_min_)
    },
}
