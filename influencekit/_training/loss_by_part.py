"""Losses of the parts of an example: of tokens, boxes, or the fields of a form."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from influencekit._arguments import short
from influencekit.errors import InputError

__all__ = ["Parts", "as_parts", "one_number"]


class Parts(NamedTuple):
    """What a loss returns that tells parts of an example apart: tokens, boxes, the fields of a form.

        loss of example i = sum over its parts p of  weights[i, p] losses[i, p]

    losses, weights: [batch, part]. Weight 0 says that there is no part in this place: padding. A weight may
    depend on its own example, as 1 / (number of its parts) does. What depends on the whole batch, such as
    1 / (number of tokens in the batch), is `reduction=` of the tape.

    A part is known by its place: part p of an example must stand in column p whenever the example comes. So
    pad on the right.

    Cost: what the loss costs. Errors: `InputError` for other shapes, where the loss is called.

    Example:

        >>> import torch
        >>> import influencekit as ik
        >>> losses = torch.tensor([[1.0, 3.0, 0.5], [2.0, 9.0, 9.0]])
        >>> there = torch.tensor([[True, True, True], [True, False, False]])
        >>> ik.Parts.mean(losses, there).reduced()
        tensor([1.5000, 2.0000])
        >>> ik.Parts.sum(losses, there).reduced()
        tensor([4.5000, 2.0000])
    """

    losses: Tensor
    weights: Tensor

    @classmethod
    def mean(cls, losses: Tensor, mask: Tensor) -> Self:
        """The mean over the parts of each example; `mask` [batch, part] is true where there is a part. An
        example without a part has loss 0."""
        there = (mask != 0).to(losses.dtype)
        return cls(losses, there / there.sum(1, keepdim=True).clamp(min=1))

    @classmethod
    def sum(cls, losses: Tensor, mask: Tensor) -> Self:
        """The sum over the parts of each example; `mask` [batch, part] is true where there is a part."""
        return cls(losses, (mask != 0).to(losses.dtype))

    def reduced(self) -> Tensor:
        """One number an example, [batch]: the weighted sum of its parts. A loop that uses this is replayed
        bit for bit."""
        return (self.weights * self.losses).sum(1)

    def to(self, dtype: torch.dtype) -> Parts:
        """The same in another precision."""
        return Parts(self.losses.to(dtype), self.weights.to(dtype))


def one_number(found: Any) -> Any:
    """What a loss returned as one number an example: parts are added up, anything else stays as it is.

    Errors: parts of another shape than [batch, part].
    """
    if not isinstance(found, Parts):
        return found
    losses, weights = found
    if not isinstance(losses, Tensor) or losses.dim() != 2 or not losses.is_floating_point():
        raise InputError(
            f"Parts: expected losses [batch, part] in floating point, got {_said(losses)}; use "
            'reduction="none", and reduce over everything but examples and parts'
        )
    if not isinstance(weights, Tensor) or weights.shape != losses.shape:
        raise InputError(
            f"Parts: expected one weight for each loss, shape {list(losses.shape)}, got {_said(weights)}; "
            "weight 0 says that there is no part"
        )
    return found.reduced()


def as_parts(found: Any) -> Parts:
    """What a loss returned, if it tells parts apart. Errors: a loss that does not."""
    if not isinstance(found, Parts):
        raise InputError(
            "parts: this run's loss returns one number an example; let it return ik.Parts(losses, weights), "
            "both [batch, part], to tell parts apart"
        )
    one_number(found)
    return found.to(found.losses.dtype)


def _said(x: Any) -> str:
    return f"{x.dtype} {list(x.shape)}" if isinstance(x, torch.Tensor) else short(x)
