"""The corners of a model, found while it is called, and what derivatives see in their place.

A corner is where a function has no derivative: of `relu`, `leaky_relu`, `prelu`, `abs` and `clamp` to
numbers, as functions, methods or modules, and of what is a clamp by another name: `relu6`, `hardtanh`, and
`threshold` where its value is the threshold. Each is made of relu, so that only relu has to be replaced:

    leaky_relu(a) = s a + (1 - s) relu(a),    abs(a) = 2 relu(a) - a
    clamp(a, m, M) = m + relu(a - m) - relu(a - M),    without m: M - relu(M - a)

Max pooling, and other functions with corners, are left as they are, and their names are kept in `left`.
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
    """Within it, `relu` takes the place of the corner in every function that has one, in their order; `left`
    are the names of functions that were called and have corners of other kinds."""

    def __init__(self, relu: Relu) -> None:
        super().__init__()
        self._relu = relu
        self.left = set[str]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = _CORNERS[func](self._relu, *args, **kwargs) if func in _CORNERS else NotImplemented
        if made is not NotImplemented:
            return made
        numbers = any(isinstance(a, Tensor) and a.is_floating_point() for a in (*args[:1], *kwargs.values()))
        if numbers and func in _LEFT:
            self.left.add(_LEFT[func])
        elif numbers and func in _CORNERS:
            self.left.add(f"{getattr(func, '__name__', 'a corner').strip('_')} of this form")
        return func(*args, **kwargs)


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


def _prelu(relu: Relu, input: Tensor, weight: Tensor) -> Any:
    slope = weight if weight.numel() == 1 else weight.reshape(-1, *[1] * (input.dim() - 2))
    return slope * input + (1 - slope) * relu(input)


def _clamp(relu: Relu, input: Tensor, min: Any = None, max: Any = None) -> Any:
    ends = [each for each in (min, max) if each is not None]
    if not all(isinstance(each, int | float) for each in ends) or not input.is_floating_point():
        return NotImplemented
    if min is None:
        found = max - relu(max - input)
    elif max is None:
        found = min + relu(input - min)
    elif min < max:
        found = min + relu(input - min) - relu(input - max)
    else:
        return NotImplemented
    return found + (torch.clamp(input, min, max) - found).detach()  # its value is kept to the last digit


def _clamp_max(relu: Relu, input: Tensor, max: Any) -> Any:
    return _clamp(relu, input, max=max)


def _hardtanh(
    relu: Relu, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Any:
    ends = min_val, max_val
    return _changed(_clamp, relu, input, *ends) if inplace else _clamp(relu, input, *ends)


def _relu6(relu: Relu, input: Tensor, inplace: bool = False) -> Any:
    return _hardtanh(relu, input, 0.0, 6.0, inplace)


def _threshold(relu: Relu, input: Tensor, threshold: Any, value: Any, inplace: bool = False) -> Any:
    if threshold != value:  # a jump, not a corner
        return NotImplemented
    return _changed(_clamp, relu, input, threshold) if inplace else _clamp(relu, input, threshold)


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
    **{f: _clamp_max for f in (torch.clamp_max, Tensor.clamp_max)},
    **{f: _prelu for f in (F.prelu, torch.prelu, Tensor.prelu)},
    **{f: _hardtanh for f in (F.hardtanh, torch._C._nn.hardtanh)},
    **{f: _relu6 for f in (F.relu6, torch._C._nn.relu6)},
    **{f: _threshold for f in (F.threshold, torch.threshold)},
    **{f: partial(_changed, _relu) for f in (torch.relu_, Tensor.relu_)},
    torch._C._nn.leaky_relu_: partial(_changed, _leaky),
    **{f: partial(_changed, _abs) for f in (torch.abs_, Tensor.abs_)},
    **{
        f: partial(_changed, _clamp)
        for f in (torch.clamp_, Tensor.clamp_, torch.clamp_min_, Tensor.clamp_min_)
    },
    **{f: partial(_changed, _clamp_max) for f in (torch.clamp_max_, Tensor.clamp_max_)},
    torch.threshold_: partial(_changed, _threshold),
    torch._C._nn.hardtanh_: partial(_changed, _hardtanh),
}

_LEFT: dict[Any, str] = {
    getattr(home, name): name
    for home, names in {
        F: "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
        "hardswish hardsigmoid hardshrink softshrink rrelu selu",
        torch: "max min amax amin maximum minimum hardshrink selu rrelu max_pool1d max_pool2d max_pool3d",
        Tensor: "max min amax amin maximum minimum hardshrink",
    }.items()
    for name in names.split()
}
