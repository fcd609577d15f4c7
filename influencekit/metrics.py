"""How well two sets of scores agree: Pearson, Spearman, Kendall tau-b, Jaccard of the top part.

Every metric takes two tensors `[..., n]` of one shape, n >= 2 examples last, and returns float64 `[...]` on
their device; leading dimensions (estimators, seeds, queries, windows) are independent. Values equal scipy's
to 1e-12, ties included. A row in which either side is constant has no correlation: Pearson, Spearman and
Kendall give NaN there, as scipy does. Nothing is differentiated. Errors: `InputError` for unlike shapes
(nothing is broadcast), fewer than two examples, complex, NaN or infinite scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from influencekit._arguments import one_of, real_number
from influencekit._tensors import real_tensor, tensor_problem
from influencekit.errors import InputError

__all__ = [
    "METRICS",
    "Top",
    "agreement",
    "border_ties",
    "jaccard",
    "kendall",
    "pearson",
    "spearman",
    "top_words",
]

Top = Literal["signed", "abs", "harmful"]
"""Which examples `jaccard` compares: highest by value, by size, or lowest."""
FRACTION = 0.3  # of the examples, in the sets that `jaccard` compares


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's linear correlation, in [-1, 1]; NaN where x or y is constant.

    Shapes: [..., n] and [..., n] to [...]. Cost: O(n). Errors: those of all metrics. Source: Pearson 1895.

    Example:

        >>> import torch
        >>> from influencekit.metrics import pearson
        >>> x, y = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 3.0, 2.0, 4.0])
        >>> round(float(pearson(x, y)), 3)
        0.8
    """
    return _pearson(*_checked(x, y))


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's rank correlation: Pearson's correlation of the ranks, ties at their average.

    Shapes: [..., n] and [..., n] to [...]. Cost: O(n log n). Errors: those of all metrics. Source: Spearman
    1904.

    Example:

        >>> import torch
        >>> from influencekit.metrics import spearman
        >>> x, y = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 3.0, 2.0, 4.0])
        >>> round(float(spearman(x**3, y)), 3)
        0.8
    """
    x, y = _checked(x, y)
    return _pearson(_ranks(x), _ranks(y))


def kendall(x: Tensor, y: Tensor) -> Tensor:
    """Kendall's tau-b, in [-1, 1], which corrects for ties.

    tau_b = (P - Q) / sqrt((n0 - n1) (n0 - n2)), with P concordant and Q discordant of the n0 = n (n - 1) / 2
    pairs, and n1, n2 pairs tied in x, in y. NaN where x or y is constant. Exact integer counts; O(n log^2 n)
    time and O(n) memory a row: no pair is ever formed. Source: Kendall, "The treatment of ties in ranking
    problems", Biometrika 1945.

    Example:

        >>> import torch
        >>> from influencekit.metrics import kendall
        >>> x, y = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 3.0, 2.0, 4.0])
        >>> round(float(kendall(x, y)), 3)
        0.667
    """
    x, y = (_dense_ranks(scores) for scores in _checked(x, y))
    n = x.shape[-1]
    joint = x * n + y
    total, tied_x, tied_y = n * (n - 1) // 2, _tied_pairs(x), _tied_pairs(y)
    by_x_then_y = joint.sort(dim=-1).values % n
    discordant = _inversions(by_x_then_y)
    concordant_minus_discordant = total - tied_x - tied_y + _tied_pairs(joint) - 2 * discordant
    untied_x, untied_y = (total - tied_x).double(), (total - tied_y).double()
    return (concordant_minus_discordant.double() / untied_x.sqrt() / untied_y.sqrt()).clamp(-1, 1)


def jaccard(x: Tensor, y: Tensor, fraction: float = FRACTION, top: Top = "signed") -> Tensor:
    """Jaccard similarity |A & B| / |A | B| of the sets with the highest scores of x (A) and y (B), in [0, 1].

    `top` = "signed": highest by signed value, for losses the most helpful examples. "abs": by absolute value,
    whoever matters most. "harmful": the lowest, for losses the most harmful. Each set holds exactly
    k = max(1, fraction * n rounded to the nearest whole number) examples. Among equal scores at the border
    the lower index is taken: `border_ties` says how many there are. Cost O(n log n). Errors also: a fraction
    outside (0, 1], another `top`. Source: Jaccard 1912.

    Example:

        >>> import torch
        >>> from influencekit.metrics import jaccard
        >>> x, y = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 3.0, 2.0, 4.0])
        >>> round(float(jaccard(x, y, fraction=0.5)), 3)
        0.333
    """
    x, y = _checked(x, y)
    k = _top_count(x.shape[-1], fraction)
    both = (_top(_ordered_by(x, top), k) & _top(_ordered_by(y, top), k)).sum(-1).double()
    return both / (2 * k - both)


def border_ties(
    x: Tensor, fraction: float = FRACTION, top: Top = "signed", resolution: Tensor | float | None = None
) -> Tensor:
    """How many examples stand so near the border of the top part of x [..., n] that rounding decides between
    them.

    Counted are those inside that are at most `resolution` [...] above the first one outside, and those
    outside that are at most as much below the last one inside; 0 where the border is clear. Unless you say,
    it is the last digit of the largest score in the dtype of x. Scores that are small differences of large
    numbers are known less well: for retraining pass eps times the query's value. Returns int64 [...]. Cost
    O(n log n).

    Example:

        >>> import torch
        >>> from influencekit.metrics import border_ties
        >>> int(border_ties(torch.tensor([3.0, 2.0, 2.0, 1.0]), fraction=0.5))
        2
    """
    given, (x, _) = x, _checked(x, x)
    x, k = _ordered_by(x, top), _top_count(x.shape[-1], fraction)
    if k == x.shape[-1]:
        return torch.zeros(x.shape[:-1], dtype=torch.int64, device=x.device)
    if resolution is None:
        eps = torch.finfo(given.dtype).eps if given.is_floating_point() else 0.0
        resolution = eps * x.abs().amax(-1)
    within = real_tensor("resolution", resolution).to(x)
    if within.shape not in ((), x.shape[:-1]) or not bool((within >= 0).all()):
        raise InputError(
            f"resolution: expected one number of at least 0, or {list(x.shape[:-1])} of them, got shape "
            f"{list(within.shape)}"
        )
    within = within.expand(x.shape[:-1])[..., None]
    ordered = x.sort(dim=-1, descending=True).values
    inside, outside = ordered[..., k - 1 : k], ordered[..., k : k + 1]
    return ((x >= inside - within) & (x <= outside + within)).sum(-1)


def top_words(top: Top = "signed") -> str:
    """Which examples `jaccard` compares, in words; `top` as there.

    Example:

        >>> from influencekit.metrics import top_words
        >>> top_words("abs")
        'the top 30 % by absolute value'
    """
    one_of("top", top, _WORDS)
    percent = f"{100 * FRACTION:g} %"
    return f"the {percent} most harmful" if top == "harmful" else f"the top {percent} by {_WORDS[top]} value"


METRICS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"pearson": pearson, "spearman": spearman, "kendall": kendall, "jaccard": jaccard}
)
"""The four metrics by name, in the order of `agreement`."""


def agreement(x: Tensor, y: Tensor, top: Top = "signed") -> Tensor:
    """All of `METRICS`, in that order, as a last dimension: [..., n], [..., n] -> [..., metric].

    `top`: which examples `jaccard` compares. Cost: the sum of theirs. Errors: those of all metrics.

    Example:

        >>> import torch
        >>> from influencekit.metrics import agreement
        >>> x, y = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 3.0, 2.0, 4.0])
        >>> agreement(x, y).shape
        torch.Size([4])
    """
    return torch.stack([m(x, y, top=top) if m is jaccard else m(x, y) for m in METRICS.values()], dim=-1)


_WORDS = {"signed": "signed", "abs": "absolute", "harmful": ""}


def _ordered_by(x: Tensor, top: str) -> Tensor:
    """x, turned so that the examples that `top` means have the highest values."""
    one_of("top", top, _WORDS)
    return x.abs() if top == "abs" else -x if top == "harmful" else x


def _top_count(n: int, fraction: float) -> int:
    fraction = real_number("fraction", fraction, above=0, most=1)
    return max(1, round(fraction * n))


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    for scores in (x, y):
        if problem := tensor_problem(scores):
            raise InputError(f"expected two tensors of scores, {problem}")
    if x.shape != y.shape:
        raise InputError(f"expected two sets of scores of one shape, got {list(x.shape)} and {list(y.shape)}")
    if x.ndim == 0 or x.shape[-1] < 2:
        raise InputError(
            f"agreement needs scores of at least two examples in the last dimension, got {list(x.shape)}"
        )
    for scores in (x, y):
        if scores.is_complex():
            raise InputError(f"expected real scores, got {scores.dtype}")
        bad = scores.numel() - int(torch.isfinite(scores).sum())
        if bad:
            raise InputError(
                f"expected finite scores, got {bad} of {scores.numel()} that are NaN or infinite"
            )
    return x.detach().double(), y.detach().double()


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    constant = (x == x[..., :1]).all(-1) | (y == y[..., :1]).all(-1)
    r = (_unit(x) * _unit(y)).sum(-1).clamp(-1, 1)
    return r.masked_fill(constant, torch.nan)


def _unit(x: Tensor) -> Tensor:
    """x, centred and of norm one, 1e-300 and 1e300 and a large offset alike.

    Scaled by a power of two first, which loses no digit, so that neither sums nor squares overflow. Centred
    before all other scaling, since of a large offset the digits of the differences are all that is left; and
    once more, since the first mean was rounded at the size of the offset.
    """
    mantissa, _ = torch.frexp(largest := x.abs().amax(-1, keepdim=True))
    x = x / (largest / (2 * mantissa)).masked_fill(largest == 0, 1)
    x = _scaled(x - x.mean(-1, keepdim=True))
    x = x - x.mean(-1, keepdim=True)
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def _scaled(x: Tensor) -> Tensor:
    largest = x.abs().amax(-1, keepdim=True)
    return x / largest.masked_fill(largest == 0, 1)


def _ranks(x: Tensor) -> Tensor:
    """Ranks from 1, ties sharing their average."""
    ordered = x.sort(dim=-1).values
    below = torch.searchsorted(ordered, x.contiguous(), right=False)
    not_above = torch.searchsorted(ordered, x.contiguous(), right=True)
    return (below + not_above + 1).double() / 2


def _dense_ranks(x: Tensor) -> Tensor:
    """Whole-number ranks from 0 below n, ties sharing the lowest."""
    return torch.searchsorted(x.sort(dim=-1).values, x.contiguous(), right=False)


def _tied_pairs(ranks: Tensor) -> Tensor:
    """Pairs of equal entries in each row: an entry counts the equal ones that stand before it when sorted."""
    ordered = ranks.sort(dim=-1).values
    first = torch.searchsorted(ordered, ordered, right=False)
    return (torch.arange(ranks.shape[-1], device=ranks.device) - first).sum(-1)


def _inversions(ranks: Tensor) -> Tensor:
    """Pairs i < j with ranks[i] > ranks[j] in each row, bit by bit from the highest.

    Two unequal ranks differ first in one bit. So, at each bit: among the entries that agree in all higher
    bits, in their original order, every 0 counts the 1s before it.
    """
    count = torch.zeros(ranks.shape[:-1], dtype=torch.int64, device=ranks.device)
    for bit in range((ranks.shape[-1] - 1).bit_length() - 1, -1, -1):
        higher = ranks >> (bit + 1)
        order = higher.argsort(dim=-1, stable=True)
        higher, ones = higher.gather(-1, order), (ranks >> bit & 1).gather(-1, order)
        ones_before = ones.cumsum(-1) - ones
        group_start = torch.searchsorted(higher, higher, right=False)
        count += ((ones_before - ones_before.gather(-1, group_start)) * (1 - ones)).sum(-1)
    return count


def _top(x: Tensor, k: int) -> Tensor:
    """Mask of the k highest entries of each row; among equals the lower index."""
    highest = x.argsort(dim=-1, descending=True, stable=True)[..., :k]
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, highest, True)
