"""How many of the most suspicious labels are wrong: what the planted ones let one expect.

Of the examples that share a given label, with depths in the order of suspicion of all examples:

    pi                 fraction of wrong labels
    F0, F1 [depth]     fraction of right, of wrong labels among the most suspicious, up to a depth
    u = (1 - pi) F0 + pi F1          of the examples themselves
    p = (1 - a) F1 + a F0            of those that got this label planted; a: flips of wrong labels that
                                     happen to be right

so F1 = ((1 - pi) p - a u) / ((1 - pi)(1 - a) - a pi), and pi F1 of them are wrong and that suspicious. Their
sum over the labels is the expected number of wrong ones up to a depth.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

__all__ = ["Expected", "Planted", "expected", "suspicion_of"]

_WIDTH = 0.05  # of the kernel that smooths the depths of planted labels, as quantiles of a normal
_SHARED = 5  # planted labels, of all groups alike, that count in each: so that one with few has a curve
_DEPTHS = 400


class Expected(NamedTuple):
    """`issues`, the number of wrong labels, and `precision` [k] of the k most suspicious, each with `low` and
    `high` ends of its interval. An upper bound alone is `high`, and the rest NaN and 0."""

    issues: tuple[float, float, float]
    precision: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Planted(NamedTuple):
    """The planted labels of one planting, each [planted]: its `depth`, the fraction of the other examples
    that are more suspicious; the group of the label `before` and `after`; and `undone`, the probability that
    a wrong label became the right one."""

    depth: np.ndarray
    before: np.ndarray
    after: np.ndarray
    undone: np.ndarray


def expected(
    plantings: Sequence[Planted], groups: np.ndarray, fractions: np.ndarray, level: float,
    seed: tuple[int, ...], bound: bool,
) -> Expected:  # fmt: skip
    """What to expect of examples of these `groups` [example], the most suspicious first, from planted labels
    and draws of the fraction of wrong ones in each group `fractions` [draw, group]. `bound`: the fraction is
    the largest possible, so intervals begin at 0, and what is most probable is not known.

    For the intervals, plantings are drawn again with replacement, and within each its labels.
    """
    generator = np.random.default_rng(seed)
    curve = _Curve(plantings, groups, fractions.shape[1])
    middle = fractions.mean(0)  # means add up over groups; medians of a few wrong labels each would all be 0
    first = curve.precision(curve.once, middle)
    again = np.array([curve.precision(curve.again(generator), pi) for pi in fractions])
    tail = (1 - level) / 2
    low, high = np.quantile(again, [tail, 1 - tail], axis=0)
    low, high = np.minimum(low, first), np.maximum(high, first)
    few, many = np.quantile(fractions @ curve.sizes, [tail, 1 - tail])
    number = float(middle @ curve.sizes)
    issues = number, min(float(few), number), max(float(many), number)
    if bound:
        return Expected((np.nan, 0.0, issues[2]), np.full(len(groups), np.nan), np.zeros(len(groups)), high)
    return Expected(issues, first, low, high)


class _Curve:
    """Precision among the most suspicious [k], for planted labels that count so often and any fractions."""

    def __init__(self, plantings: Sequence[Planted], groups: np.ndarray, count: int) -> None:
        n, self.planted = len(groups), Planted(*map(np.concatenate, zip(*plantings, strict=True)))
        self.ends = np.cumsum([0, *(len(one.depth) for one in plantings)])
        self.once = np.ones(self.ends[-1])
        self.sizes = np.bincount(groups, minlength=count)
        self.k = np.arange(1, n + 1)
        edge = 0.5 / n
        grid = np.linspace(ndtri(edge), ndtri(1 - edge), _DEPTHS)
        self.depths = np.append(0.0, np.append(ndtr(grid[:-1]), 1.0))
        mine = [(groups == g).cumsum() / max(size, 1) for g, size in enumerate(self.sizes)]
        at = np.arange(n + 1) / n
        self.u = np.array([np.interp(self.depths[1:], at, np.append(0.0, one)) for one in mine])
        z = ndtri(np.clip(self.planted.depth, edge, 1 - edge))
        self.below = ndtr((grid - z[:, None]) / _WIDTH)  # [planted, depth]
        self.of_group = (self.planted.after == np.arange(count)[:, None]).astype(np.float64)

    def again(self, generator: np.random.Generator) -> np.ndarray:
        """How often each planted label counts, drawn again."""
        found, count = np.zeros(len(self.once)), len(self.ends) - 1
        for j in generator.integers(0, count, count):
            first, size = self.ends[j], self.ends[j + 1] - self.ends[j]
            np.add.at(found, first + generator.integers(0, size, size), 1)
        return found

    def precision(self, counts: np.ndarray, pi: np.ndarray) -> np.ndarray:
        weights = self.of_group * counts + _SHARED * counts / counts.sum()
        weights /= weights.sum(1, keepdims=True)
        p, a = weights @ self.below, (weights @ (self.planted.undone * pi[self.planted.before]))[:, None]
        pi = pi[:, None]
        scale = (1 - pi) * (1 - a) - a * pi
        with np.errstate(divide="ignore", invalid="ignore"):
            f1 = np.where(scale > 0, np.clip(((1 - pi) * p - a * self.u) / scale, 0, 1), p)
        each = np.minimum(pi * np.maximum.accumulate(f1, axis=1), self.u)  # no more than there are
        total = np.append(0.0, self.sizes @ each)
        return np.interp(self.k / len(self.k), self.depths, _majorant(self.depths, total)) / self.k


def suspicion_of(precision: np.ndarray) -> np.ndarray:
    """The probability of being wrong [k] of the k-th most suspicious example: what one more example adds to
    the expected number of wrong ones, which falls with k. NaN where that is not known."""
    total = np.concatenate([[0.0], precision * np.arange(1, len(precision) + 1)])
    return np.clip(np.diff(total), 0, 1)


def _majorant(x: np.ndarray, total: np.ndarray) -> np.ndarray:
    """The least concave function above `total` at x: the more suspicious an example, the more it adds."""
    hull = [0]
    for c in range(1, len(x)):
        while len(hull) > 1 and _above(x, total, hull[-2], hull[-1], c):
            hull.pop()
        hull.append(c)
    return np.interp(x, x[hull], total[hull])


def _above(x: np.ndarray, total: np.ndarray, a: int, b: int, c: int) -> bool:
    """Whether the line from a to c passes above b."""
    return bool((total[b] - total[a]) * (x[c] - x[a]) <= (total[c] - total[a]) * (x[b] - x[a]))
