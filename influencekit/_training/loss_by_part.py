"""Losses of the parts of an example: of tokens, boxes, or the fields of a form."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from influencekit._arguments import short
from influencekit.errors import InputError

__all__ = ["Parts", "as_parts", "of_columns", "of_parts", "one_number", "there"]

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_MOST = 1_000_000  # a larger number of a part is an id, and would be a place in memory


class Parts(NamedTuple):
    """What a loss returns that tells parts of an example apart: tokens, boxes, the fields of a form.

        loss of example i = sum over its parts p of  weights[i, p] losses[i, p]

    losses, weights: [batch, part]. Weight 0 says that there is no part in this place: padding. A weight may
    depend on its own example, as 1 / (number of its parts) does. What depends on the whole batch, such as
    1 / (number of tokens in the batch), is `reduction=` of the tape.

    A part is known by its column: part p of an example must stand in column p whenever the example comes. So
    pad on the right. Or give `part` [batch, column], whole numbers: which part a column is of. Then padding
    may be anywhere (its `part` does not count); a part may be missing in some batches; and several columns
    may be one part, as tokens of a word are.

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
    part: Tensor | None = None

    @classmethod
    def mean(cls, losses: Tensor, mask: Tensor, part: Tensor | None = None) -> Self:
        """The mean over the columns of each example; `mask` [batch, column] is false where there is padding.
        An example without a part has loss 0."""
        there = _counted("mean", losses, mask)
        return cls(losses, there / there.sum(1, keepdim=True).clamp(min=1), part)

    @classmethod
    def sum(cls, losses: Tensor, mask: Tensor, part: Tensor | None = None) -> Self:
        """The sum over the columns of each example; `mask` [batch, column] is false where there is
        padding."""
        return cls(losses, _counted("sum", losses, mask), part)

    def reduced(self) -> Tensor:
        """One number an example, [batch]: the weighted sum of its parts. A loop that uses this is replayed
        bit for bit."""
        return (self.weights * self.losses).sum(1)

    def to(self, dtype: torch.dtype) -> Parts:
        """The same in another precision."""
        return Parts(self.losses.to(dtype), self.weights.to(dtype), self.part)


def _counted(name: str, losses: Tensor, mask: Tensor) -> Tensor:
    """1 where there is a part, 0 for padding. Errors: what is no tensor, which users may have left out."""
    for what, x in (("losses", losses), ("mask", mask)):
        if not isinstance(x, Tensor):
            raise InputError(
                f"Parts.{name}: expected {what} [batch, column], a tensor, got {short(x)}; mask is false "
                "where there is padding: pass torch.ones_like(losses) where there is none"
            )
    return (mask != 0).to(losses.dtype)


def of_parts(values: Tensor, part: Tensor | None, width: int) -> Tensor:
    """Values of columns, added up by their part: [batch, width] of [batch, column]. Memory is linear."""
    if part is None:
        return pad(values, (0, width - values.shape[1]))
    place, inside = _places(part, width)
    return values.new_zeros(len(values), width).scatter_add(1, place, values * inside)


def of_columns(values: Tensor, part: Tensor | None, columns: int) -> Tensor:
    """For each column the value of its part, 0 where it has none: [batch, column] of [batch, part]."""
    if part is None:
        return pad(values, (0, columns - values.shape[1]))
    place, inside = _places(part, values.shape[1])
    return values.gather(1, place) * inside


def _places(part: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """An index into `width` parts for each column, and whether that is its part: another one counts 0."""
    part = part.long()  # of 8 bits, a part could not be compared with a width beyond them
    return part.clamp(0, width - 1), (part >= 0) & (part < width)


def there(parts: Parts) -> Tensor:
    """Which parts the examples of a batch have: [batch, part], as wide as the last. Errors: a part below 0 or
    above a million, which is an id and no number."""
    counted, part = parts.weights.detach() != 0, parts.part
    if part is None:
        return counted
    known = part[counted]
    if bool((known < 0).any()):
        raise InputError("Parts: a part is below 0 where the weight is not 0; count the parts from 0")
    if not len(known):
        return counted[:, :0]
    if (last := int(known.max())) > _MOST:
        raise InputError(f"Parts: a part is {last}, above {_MOST:,}; number the parts of each example from 0")
    return of_parts(counted.double(), part, last + 1) > 0


def one_number(found: Any) -> Any:
    """What a loss returned as one number an example: parts are added up, anything else stays as it is.

    Errors: parts of another shape than [batch, part].
    """
    if not isinstance(found, Parts):
        return found
    losses, weights, part = found
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
    if part is not None and (
        not isinstance(part, Tensor) or part.shape != losses.shape or part.dtype not in _WHOLE
    ):
        raise InputError(
            f"Parts: expected `part`, one whole number for each loss, shape {list(losses.shape)}, got "
            f"{_said(part)}; it says which part a column is of"
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
