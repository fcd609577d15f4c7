"""Whether a tensor has plain values, and numbers in any guise as a tensor."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from influencekit._arguments import short
from influencekit.errors import InputError

__all__ = ["real_tensor", "tensor_problem"]


def tensor_problem(x: Any) -> str | None:
    """What is wrong with a thing that is taken for a dense tensor with values, and what to do; else None."""
    if not isinstance(x, Tensor):
        return f"got {short(x)}; torch.as_tensor makes tensors of arrays and lists"
    if x.is_meta:
        return "got a tensor on the meta device, which has no values; load them first"
    if x.is_nested:
        return "got a nested tensor; pad it to one shape: torch.nested.to_padded_tensor"
    if x.layout != torch.strided:
        return f"got a sparse tensor ({x.layout}); make it dense: x.to_dense()"
    if x.is_quantized:
        return f"got a quantized tensor ({x.dtype}); give it in floating point: x.dequantize()"
    return None


def real_tensor(name: str, value: Any) -> Tensor:
    """Real numbers in a tensor, an array, or lists as a tensor without a graph. Errors: anything else."""
    try:
        if not isinstance(value, Tensor):
            found = np.asarray(value)
            value = torch.as_tensor(found if found.dtype.kind in "biuf" else None)  # None: torch says no
    except Exception:  # texts, None, lists of other lengths, objects of the user's own
        raise InputError(
            f"{name}: expected numbers in a tensor, an array or a list, got {short(value)}"
        ) from None
    if problem := tensor_problem(value):
        raise InputError(f"{name}: expected a tensor of real numbers, {problem}")
    if value.is_complex() or value.dtype == torch.bool:
        raise InputError(f"{name}: expected real numbers, got {value.dtype}")
    return value.detach()
