"""Losses of a large batch in pieces, so that memory does not grow with the test set.

What an example takes is measured: the results of every operation of a forward pass on a few examples. A
batch that takes more than `LIMIT` bytes is cut; one that takes less is one piece, as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from influencekit._training.batch import Batch, mapped, select, tensors_of
from influencekit._training.checks.separability import own_losses

__all__ = ["bytes_of_example", "in_pieces", "pieces"]

LIMIT = 128 << 20  # bytes that a piece may take
_FEW = (2, 4)  # examples on which the bytes of one are measured
_SOME = 8  # examples on which losses are shown to be their own; batches as small as that are never cut


class Evaluated(Protocol):
    """What a `Workload` has: a model, and losses in evaluation mode."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def theta0(self) -> Tensor: ...
    def losses(self, theta: Tensor, batch: Batch) -> Tensor: ...


class _Measured(NamedTuple):
    """Bytes that an example takes, and whether its loss is its own."""

    each: float
    separable: bool


_KNOWN: WeakKeyDictionary[nn.Module, dict[Any, _Measured]] = WeakKeyDictionary()


class _Counted(TorchDispatchMode):
    """Inside, the bytes of all results that are not views are added up."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        new = [x for x in tree_leaves(found) if isinstance(x, Tensor) and _storage(x) not in given]
        self.bytes += sum(x.numel() * x.element_size() for x in new)
        return found


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def pieces(workload: Evaluated, batch: Batch) -> Sequence[Batch]:
    """The batch in pieces that fit, or as it is: also where the loss of an example depends on the others."""
    count = len(tensors_of(batch)[0])
    known = _measured(workload, batch, count)
    if known is None or count * known.each <= LIMIT or not known.separable:
        return [batch]
    size = max(1, int(LIMIT / known.each))
    return [mapped(batch, lambda x, k=k: x[k : k + size]) for k in range(0, count, size)]  # type: ignore[misc]


def bytes_of_example(workload: Evaluated, batch: Batch) -> float:
    """What an example takes in a forward pass that keeps everything; 0 where nobody measured it."""
    known = _measured(workload, batch, len(tensors_of(batch)[0]))
    return 0.0 if known is None else known.each


def in_pieces(
    workload: Evaluated, losses: Callable[[Tensor, Batch], Tensor], theta: Tensor, batch: Batch
) -> Tensor:
    """losses(theta, batch) [n], piece by piece where the batch is large.

    Under autograd a piece keeps nothing: its forward pass is run again when its gradient is asked for.
    """
    parts = pieces(workload, batch)
    if len(parts) == 1:
        return losses(theta, batch)
    if _transformed() or not torch.is_grad_enabled():
        return torch.cat([losses(theta, part) for part in parts])
    found = []
    for part in parts:
        context = copy_context()  # the buffers that a retrained model is evaluated with
        with set_checkpoint_early_stop(False):
            found.append(
                checkpoint(
                    lambda theta, part=part, context=context: context.run(losses, theta, part), theta,
                    use_reentrant=False, preserve_rng_state=False,
                )
            )  # fmt: skip
    return torch.cat(found)


def _transformed() -> bool:
    """Whether a transform of torch.func, or a trace, is going on."""
    return torch._C._functorch.peek_interpreter_stack() is not None or get_proxy_mode() is not None


def _measured(workload: Evaluated, batch: Batch, count: int) -> _Measured | None:
    """Measured once for a model and a form of examples; None where it cannot be, or need not."""
    if count <= _SOME:
        return None
    known = _KNOWN.setdefault(workload.model, {})
    form = tuple((tuple(x.shape[1:]), x.dtype) for x in tensors_of(batch))
    if form not in known and not _transformed():
        try:
            known[form] = _measure(workload, batch)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # the user's own model, on fewer examples than it is made for
            known[form] = _Measured(0.0, False)
    return known.get(form)


def _measure(workload: Evaluated, batch: Batch) -> _Measured:
    theta = workload.theta0
    rows = torch.arange(_SOME, device=theta.device)
    with torch.no_grad():
        counts = []
        for few in _FEW:
            some = select(batch, rows[:few])
            with _Counted() as counted:
                workload.losses(theta, some)
            counts.append(counted.bytes)
        separable = own_losses(lambda some: workload.losses(theta, some), select(batch, rows))
    return _Measured(max(0, counts[1] - counts[0]) / (_FEW[1] - _FEW[0]), separable)
