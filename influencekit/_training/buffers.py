"""Updates of buffers, such as the running statistics of batch norm, as differentiable functions.

Torch updates running statistics inside its kernels, and models update theirs under `no_grad` or on detached
values, so autograd sees none of it. But retraining carries the updates along, and so must the adjoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = [
    "by_formula",
    "buffers_in_float64",
    "flat",
    "floating",
    "packed",
    "seen_through",
    "unpacked",
    "with_flat",
]


class by_formula(TorchFunctionMode):  # noqa: N801 (a context, called like one)
    """Inside, normalisation with running statistics is by elementary operations, differentiable in the
    statistics; `buffers` are those that the model is called with."""

    def __init__(self, buffers: Iterable[Tensor] = ()) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        if func is F.instance_norm:
            found = _instance_norm(*args, **kwargs)
            return func(*args, **kwargs) if found is NotImplemented else found
        return func(*args, **kwargs)


class seen_through(by_formula):  # noqa: N801
    """Inside, autograd also sees what a model hides from it under `no_grad` and `detach`.

    For updates of buffers only: gradients of losses must keep what their author hid. What is saved of a
    buffer is copied, since the model may write to it later: of that, too, autograd is not told otherwise.
    """

    def __init__(self, buffers: Iterable[Tensor] = ()) -> None:
        super().__init__(buffers)
        self._addresses = {b.untyped_storage().data_ptr() for b in buffers}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._saved, lambda x: x)

    def _saved(self, x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return x.clone() if x.untyped_storage().data_ptr() in self._addresses else x

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._hooks.__exit__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:
            return None
        if func in _IDENTITIES:
            return args[0]
        if func is F.normalize and kwargs.get("out") is not None:  # spectral norm's power iteration
            return kwargs.pop("out").copy_(func(*args, **kwargs))
        return super().__torch_function__(func, types, args, kwargs)


_IDENTITIES = {torch.Tensor.detach, torch.detach, torch.Tensor.detach_, torch.Tensor.data.__get__}  # type: ignore[attr-defined]


def _batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """`F.batch_norm` by elementary operations, running statistics included."""
    if training or running_mean is None or running_var is None:
        if training:
            F._verify_batch_size(list(input.shape))  # type: ignore[attr-defined]
        dims = [0, *range(2, input.dim())]
        mean, var = input.mean(dims), input.var(dims, correction=0)
        if training and running_mean is not None and running_var is not None:
            n = input.numel() / input.shape[1]
            running_mean.mul_(1 - momentum).add_(momentum * mean)
            running_var.mul_(1 - momentum).add_(momentum * var * (n / (n - 1)))
    else:
        mean, var = running_mean, running_var
    shape = (1, -1, *[1] * (input.dim() - 2))
    scaled = (input - mean.view(shape)) * torch.rsqrt(var.view(shape) + eps)
    scaled = scaled if weight is None else scaled * weight.view(shape)
    return scaled if bias is None else scaled + bias.view(shape)


def _instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    """`F.instance_norm` where it has running statistics."""
    if running_mean is None or running_var is None:
        return NotImplemented
    if not use_input_stats:
        return _batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    F._verify_spatial_size(list(input.shape))  # type: ignore[attr-defined]
    dims = list(range(2, input.dim()))
    mean, var = input.mean(dims), input.var(dims, correction=0)
    n = input[0, 0].numel()
    running_mean.mul_(1 - momentum).add_(momentum * mean.mean(0))
    running_var.mul_(1 - momentum).add_(momentum * (var * (n / (n - 1))).mean(0))
    shape, own = (*input.shape[:2], *[1] * len(dims)), (1, -1, *[1] * len(dims))
    scaled = (input - mean.view(shape)) * torch.rsqrt(var.view(shape) + eps)
    scaled = scaled if weight is None else scaled * weight.view(own)
    return scaled if bias is None else scaled + bias.view(own)


def floating(buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the buffers that have derivatives; counters have none."""
    return {name: b for name, b in buffers.items() if b.is_floating_point()}


def flat(buffers: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """The floating ones as one vector [buffer] of the dtype and device of `like`, in their order."""
    parts = [b.reshape(-1).to(like) for b in floating(buffers).values()]
    return torch.cat(parts) if parts else like.new_zeros(0)


def with_flat(buffers: Mapping[str, Tensor], values: Tensor) -> dict[str, Tensor]:
    """The buffers with their floating ones taken from a vector [buffer]; the inverse of `flat`."""
    mine = floating(buffers)
    parts: Sequence[Tensor] = values.split([b.numel() for b in mine.values()])
    new = {n: p.view(b.shape).to(b.dtype) for (n, b), p in zip(mine.items(), parts, strict=True)}
    return {**buffers, **new}


def buffers_in_float64(buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The floating ones in float64."""
    return {name: b.double() if b.is_floating_point() else b for name, b in buffers.items()}


def packed(buffers: Mapping[str, Tensor]) -> np.ndarray:
    """All of them, counters too, as one row of float64, in which a store keeps them."""
    return torch.cat([b.detach().double().cpu().reshape(-1) for b in buffers.values()]).numpy()


def unpacked(row: np.ndarray, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `packed`, in the shapes, dtypes and device of `like`."""
    parts = torch.from_numpy(row.copy()).split([b.numel() for b in like.values()])
    return {n: p.view(b.shape).to(b.device, b.dtype) for (n, b), p in zip(like.items(), parts, strict=True)}
