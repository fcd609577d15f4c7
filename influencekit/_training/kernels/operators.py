"""Operators that torch traces or differentiates wrongly, incompletely or not at all, and what is done about
each.

Three tables. `REWRITTEN`: functions that are evaluated by elementary operations, which have every derivative,
while a workload's losses are computed; values differ by rounding only. `FORWARD`: the kernels whose forward
derivative is known to be right when it is traced; a model that issues any other is differentiated by reverse
over reverse, untraced. `unsafe` says which kernels must not stand in a trace, since what they do depends on
values or on addresses.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.nn import _reduction as _Reduction
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

from influencekit._exclusive import exclusive
from influencekit._training.kernels.ctc import ctc_loss

__all__ = ["FORWARD", "REWRITTEN", "plain_operators", "unsafe"]

aten = torch.ops.aten


@contextmanager
def plain_operators() -> Iterator[None]:
    """Losses inside are computed by operators that have first and second derivatives.

    Attention by ordinary kernels (the fused ones have no second derivative), all of `REWRITTEN`, and our own
    gradient checkpointing (`recompute`): torch's would run the model again when its parameters are others.
    These switches are the process's: one thread at a time is inside.
    """
    with exclusive(), _switched(), sdpa_kernel(SDPBackend.MATH), _Rewrite():
        yield


@contextmanager
def _switched() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    outside = {name: getattr(checkpoint, name) for name in _CHECKPOINTING}
    function = inspect.unwrap(checkpoint.checkpoint)  # whoever has imported it, under whatever name
    code = function.__code__
    try:
        if not code.co_freevars:  # a plain function, as torch has it today
            function.__code__ = _as_block.__code__
        torch.backends.mha.set_fastpath_enabled(False)
        for name, other in _CHECKPOINTING.items():
            setattr(checkpoint, name, other)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        function.__code__ = code
        for name, own in outside.items():
            setattr(checkpoint, name, own)


def _as_block(function: Any, *args: Any, **options: Any) -> Any:
    """What `checkpoint` does meanwhile; run among torch's own names."""
    from influencekit._training.kernels.recompute import block

    return block(function, *args, **options)


class _NoCheckpoint:
    """What others call where it is reentrant: the function itself."""

    @staticmethod
    def apply(function: Any, preserve: bool, *args: Any) -> Any:
        return function(*args)


def _no_checkpoint(*args: Any, **kwargs: Any) -> Iterator[None]:
    """And where it is not: they run the function between two steps of this."""
    yield


_CHECKPOINTING = {
    name: other
    for name, other in (
        ("CheckpointFunction", _NoCheckpoint),
        ("_checkpoint_without_reentrant_generator", _no_checkpoint),
    )
    if hasattr(checkpoint, name)
}


class _Rewrite(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        other = REWRITTEN.get(func)
        kwargs = kwargs or {}
        if other is None:
            return func(*args, **kwargs)
        found = other(*args, **kwargs)
        return func(*args, **kwargs) if found is NotImplemented else found


def _reduced(losses: Tensor, reduction: str, size_average: Any = None, reduce: Any = None) -> Tensor:
    if size_average is not None or reduce is not None:  # the names of long ago
        reduction = _Reduction.legacy_get_string(size_average, reduce, emit_warning=False)
    _Reduction.get_enum(reduction)  # refuses other words
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def _elementwise(of: Callable[..., Tensor], options: tuple[str, ...] = ()) -> Callable[..., Any]:
    """A loss that is a function of input, target and `options`, entry by entry; weights, and options that
    are not allowed, are left to torch."""

    def loss(
        input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None,
        reduction: str = "mean", *more: Any, **named: Any,
    ) -> Any:  # fmt: skip
        weight = named.pop("weight", None)
        values = {**dict(zip(options, more, strict=False)), **named}
        if weight is not None or len(more) > len(options) or not set(values) <= set(options):
            return NotImplemented
        if any(value < 0 for value in values.values()):
            return NotImplemented
        input, target = torch.broadcast_tensors(input, target)
        return _reduced(of(input, target, **values), reduction, size_average, reduce)

    return loss


def _huber(x: Tensor, y: Tensor, delta: float = 1.0) -> Tensor:
    d = (x - y).abs()
    return torch.where(d < delta, 0.5 * (x - y) ** 2, delta * (d - 0.5 * delta))


def _huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Any = None
) -> Any:
    if weight is not None or delta <= 0:
        return NotImplemented
    x, y = torch.broadcast_tensors(input, target)
    return _reduced(_huber(x, y, delta), reduction)


def _smooth_l1(x: Tensor, y: Tensor, beta: float = 1.0) -> Tensor:
    return (x - y).abs() if beta == 0 else _huber(x, y, beta) / beta


def _soft_margin(x: Tensor, y: Tensor) -> Tensor:
    return -F.logsigmoid(y * x)


def _multi_margin(
    input: Tensor, target: Tensor, p: int = 1, margin: float = 1.0, weight: Tensor | None = None,
    size_average: Any = None, reduce: Any = None, reduction: str = "mean",
) -> Any:  # fmt: skip
    if p not in (1, 2):
        return NotImplemented
    x, y = torch.atleast_2d(input), target.reshape(-1)
    own = x.gather(1, y[:, None])
    z = (margin - own + x).relu() ** p  # at 0, too, as torch: relu has no gradient there, clamp has
    if weight is not None:
        z = z * weight[y][:, None]
    z = z * (torch.arange(x.shape[1], device=x.device) != y[:, None])
    return _reduced((z.sum(1) / x.shape[1]).reshape(target.shape), reduction, size_average, reduce)


def _multilabel_margin(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Tensor:
    x, y = torch.atleast_2d(input), torch.atleast_2d(target)
    named = (y >= 0).long().cumprod(1).bool()  # up to the first -1
    is_target = ((y[..., None] == torch.arange(x.shape[1], device=x.device)) & named[..., None]).any(1)
    wanted = x.gather(1, y.clamp(min=0))
    gap = (1 - (wanted[:, :, None] - x[:, None, :])).relu()
    losses = (gap * (named[:, :, None] & ~is_target[:, None, :])).sum((1, 2)) / x.shape[1]
    return _reduced(losses.reshape(input.shape[:-1]), reduction, size_average, reduce)


def _embedding_bag(
    input: Tensor, weight: Tensor, offsets: Any = None, max_norm: Any = None, norm_type: float = 2.0,
    scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False,
    per_sample_weights: Tensor | None = None, include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:  # fmt: skip
    odd = max_norm is not None or scale_grad_by_freq or sparse or input.is_floating_point() or not len(input)
    weighted = per_sample_weights is not None
    if odd or mode not in ("sum", "mean", "max") or (weighted and mode != "sum"):
        return NotImplemented
    there = torch.ones_like(input, dtype=torch.bool)
    if padding_idx is not None:
        there = input != padding_idx % len(weight)
    if input.dim() == 1 and offsets is not None and mode != "max":
        starts = offsets[:-1] if include_last_offset else offsets
        bag = torch.searchsorted(starts, torch.arange(len(input), device=starts.device), right=True) - 1
        bags = F.one_hot(bag, len(starts)).to(weight).T * there  # [bag, index]
    elif input.dim() == 2 and offsets is None and input.shape[1]:
        bags = None
    else:
        return NotImplemented
    rows = F.embedding(input, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[..., None]
    if bags is not None:
        total, count = bags @ rows, bags.sum(1, keepdim=True)
        return total if mode == "sum" else total / count.clamp(min=1)
    if mode == "max":
        found = rows.masked_fill(~there[..., None], -torch.inf).amax(1)
        return torch.where(there.any(1)[:, None], found, 0.0)
    total = torch.where(there[..., None], rows, 0.0).sum(1)
    return total if mode == "sum" else total / there.sum(1, keepdim=True).clamp(min=1)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "") -> Tensor:
    gap = x1[..., :, None, :] - x2[..., None, :, :]
    same = (gap == 0).all(-1)  # of a point to itself, the distance is 0 and has no derivative, as torch's
    found = torch.linalg.vector_norm(torch.where(same[..., None], 1.0, gap), ord=p, dim=-1)
    return torch.where(same, 0.0, found)


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    found = F.relu6(input + 3) / 6
    return input.copy_(found) if inplace else found


def _l1_loss(input: Tensor, target: Tensor, *more: Any, **named: Any) -> Any:
    """Torch hands every argument on to a mode but `weight`, which is still in its own frame."""
    frame, plain = sys._getframe(), _elementwise(lambda x, y: (x - y).abs())
    while (frame := frame.f_back) is not None:  # type: ignore[assignment]
        if frame.f_code is F.l1_loss.__code__ and (weight := frame.f_locals.get("weight")) is not None:
            losses = (input - target).abs() * weight
            reduction = named.get("reduction", "mean")
            return losses.sum() / weight.sum() if reduction == "mean" else _reduced(losses, reduction)
    return plain(input, target, *more, **named)


def _view_as_complex(input: Tensor) -> Any:
    """Part of a larger vector, as a parameter is here, may begin where no complex number can."""
    try:
        if input.untyped_storage().nbytes() == input.nbytes:
            return NotImplemented
    except (RuntimeError, NotImplementedError):  # within a transform
        pass
    return torch.complex(*input.unbind(-1))


def _recurrent(func: Any) -> Callable[..., Any]:
    """By torch's own composite kernels: oneDNN's ignores strides and has no second derivative, as cuDNN's."""

    def layer(*args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings that the two contexts read and put back
            with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
                return func(*args, **kwargs)

    return layer


REWRITTEN: dict[Any, Callable[..., Any]] = {
    F.mse_loss: _elementwise(lambda x, y: (x - y) ** 2),
    F.l1_loss: _l1_loss,
    F.smooth_l1_loss: _elementwise(_smooth_l1, ("beta",)),
    F.huber_loss: _huber_loss,
    F.soft_margin_loss: _elementwise(_soft_margin),
    F.multi_margin_loss: _multi_margin,
    F.multilabel_margin_loss: _multilabel_margin,
    F.ctc_loss: ctc_loss,
    F.hardsigmoid: _hardsigmoid,
    F.embedding_bag: _embedding_bag,
    torch._weight_norm: _weight_norm,
    torch.cdist: _cdist,
    torch.view_as_complex: _view_as_complex,
    **{f: _recurrent(f) for f in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)},
}


# kernels of a gradient whose forward derivative may be traced; every other goes reverse over reverse
FORWARD = {
    getattr(aten, name)
    for name in """
    view _unsafe_view reshape expand t transpose permute squeeze unsqueeze slice slice_backward select
    select_backward split split_with_sizes unbind cat stack clone contiguous alias detach copy _to_copy
    lift_fresh_copy constant_pad_nd flip roll repeat
    ones zeros ones_like zeros_like new_zeros new_ones full full_like scalar_tensor arange empty_like
    new_empty new_full fill
    add sub mul div neg abs sign pow sqrt rsqrt reciprocal exp log log1p sum mean amax amin maximum minimum
    where clamp clamp_min erf gather scatter_add masked_fill
    mm bmm mv dot addmm baddbmm convolution convolution_backward embedding embedding_dense_backward
    native_layer_norm native_layer_norm_backward native_group_norm native_group_norm_backward
    relu threshold_backward tanh tanh_backward sigmoid sigmoid_backward gelu gelu_backward silu silu_backward
    elu elu_backward softplus softplus_backward leaky_relu leaky_relu_backward hardtanh hardtanh_backward
    _softmax _softmax_backward_data _log_softmax _log_softmax_backward_data nll_loss_forward nll_loss_backward
    nll_loss2d_forward nll_loss2d_backward binary_cross_entropy_with_logits log_sigmoid_forward
    log_sigmoid_backward
    max_pool2d_with_indices max_pool2d_with_indices_backward avg_pool2d avg_pool2d_backward
    _adaptive_avg_pool2d _adaptive_avg_pool2d_backward
    eq ne lt le gt ge logical_and logical_or logical_not bitwise_and bitwise_not
    """.split()
}


def unsafe(graph: fx.Graph) -> str | None:
    """The name of a kernel of a trace that may not be believed on other values, or None.

    Views by address (`as_strided`: what lies there may be another step's), shapes that depend on values
    (boolean masks, `nonzero`), values read into Python (`.item()`), random numbers, gradients that
    count rows.
    """
    for node in graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        packet = node.target.overloadpacket
        if packet in _BY_INDEX:
            wrong = _by_mask(node)
        elif packet is aten.embedding_dense_backward:
            wrong = bool(node.args[4])  # scale_grad_by_freq: rows that only pad a batch would count
        else:
            wrong = "as_strided" in node.target.name() or bool(_VALUE_DEPENDENT & set(node.target.tags))
        if wrong:
            return str(packet).removeprefix("aten.")
    return None


_VALUE_DEPENDENT = {
    torch.Tag.dynamic_output_shape,
    torch.Tag.data_dependent_output,
    torch.Tag.nondeterministic_seeded,
}
_BY_INDEX = {aten.index, aten.index_put, aten._index_put_impl, aten._unsafe_index, aten._unsafe_index_put}


def _by_mask(node: fx.Node) -> bool:
    """Whether a tensor is indexed by a boolean mask, so that the result's shape depends on its values."""
    kinds = [i.meta["tensor"][1] for i in node.args[1] if isinstance(i, fx.Node) and "tensor" in i.meta]  # type: ignore[union-attr]
    return any(kind in (torch.bool, torch.uint8) for kind in kinds) or not kinds
