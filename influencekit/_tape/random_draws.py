"""Record the random numbers that a forward pass draws, so that derivatives use the same ones.

`torch.func` draws in another order than eager PyTorch where a tensor does not lie contiguously in memory
(dropout after a transpose), so restoring the generator is not enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from influencekit._training.kernels.recompute import drawing
from influencekit.errors import InputError

__all__ = ["RandomDraws"]

_DROPOUT = torch.ops.aten.native_dropout.default  # on GPUs; gives its outputs and its mask


class RandomDraws:
    """What one run of `forward` draws; `replayed` lets other runs of it draw the same.

    Inside it, torch's random operations return the recorded values in their order. What Python and NumPy
    draw follows from the generators, which the caller restores. Errors: a run that draws something else.
    """

    def __init__(self, forward: Callable[[], Any]) -> None:
        self._drawn: list[Tensor] = []
        with torch.no_grad(), _RecordRandom(self._drawn):
            forward()

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw the recorded values inside, from the first on."""
        with _ReplayRandom(self._drawn) as draws, drawing(draws):
            yield


# operators that compute with what they draw
_INSIDE = {
    getattr(torch.ops.aten, name)
    for name in (
        "rrelu_with_noise", "rrelu_with_noise_", "rrelu_with_noise_functional", "_cudnn_rnn", "miopen_rnn",
        "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
}  # fmt: skip


class _RecordRandom(TorchDispatchMode):
    def __init__(self, drawn: list[Tensor]) -> None:
        super().__init__()
        self._drawn = drawn

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in _INSIDE:
            raise InputError(
                f"{func.overloadpacket.__name__} draws its random numbers inside its kernel, so a derivative "
                "cannot see the loop's own; use another layer (LeakyReLU for RReLU), or put it in eval mode"
            )
        if _draws(func):
            self._drawn.append((out[1] if func is _DROPOUT else out).clone())
        return out


class _ReplayRandom(TorchDispatchMode):
    def __init__(self, drawn: list[Tensor], place: int = 0) -> None:
        super().__init__()
        self._drawn, self.place = drawn, place

    @contextmanager
    def again(self, place: int) -> Iterator[None]:
        """Draw those from this one on, for a block that is computed again."""
        with _ReplayRandom(self._drawn, place) as draws, drawing(draws):
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _draws(func):
            return func(*args, **(kwargs or {}))
        value = self._drawn[self.place] if self.place < len(self._drawn) else None
        self.place += 1
        like = args[0] if args and isinstance(args[0], Tensor) else value
        if value is None or like is None or value.shape != like.shape:
            raise InputError(
                f"the model draws other random numbers in torch.func than in the loop ({func}); train "
                "without this operation"
            )
        if func is _DROPOUT:
            return args[0] * value / (1 - args[1]), value
        if func._schema.is_mutable:
            return args[0].copy_(value)
        return value.to(like.dtype, copy=True)


def _draws(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags
