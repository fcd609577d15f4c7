"""How many labels are wrong, and how many of the most suspicious ones: what the planted ones let one expect.

    pi                 fraction of wrong labels
    F0, F1 [depth]     fraction of right, of wrong labels among the most suspicious, up to a depth
    u = (1 - pi) F0 + pi F1          of the examples that were not planted: their depth
    p = (1 - a) F1 + a F0            of the planted ones; a: flips of wrong labels that happen to be right

so F1 = ((1 - pi) p - a u) / ((1 - pi)(1 - a) - a pi), and precision at depth u is pi F1 / u. Flips alone do
not tell pi: with two classes, exchanging right and wrong everywhere gives the same data. Trusted examples do.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from influencekit._verbs.suspects.calibration import resampled_means

__all__ = ["Expected", "expected", "fraction_wrong", "most_wrong", "suspicion_of"]

_GRID = np.linspace(0.0, 0.9, 901)
_PRIOR = 8  # of Beta(1, 1 + 8)
_BINS = 5
_FLOOR = 0.05  # trusted examples in a bin that has none: more would hide few wrong labels
_DEPTHS = 400
_WRONG = 0.05  # how often the bound may be below the truth


class Expected(NamedTuple):
    """`issues`, the number of wrong labels, and `precision` [k] of the k most suspicious, each with `low` and
    `high` ends of its interval. An upper bound alone is `high`, and the rest NaN and 0."""

    issues: tuple[float, float, float]
    precision: np.ndarray
    low: np.ndarray
    high: np.ndarray


def fraction_wrong(
    own: np.ndarray, right: np.ndarray, wrong: np.ndarray, resamples: int, seed: tuple[int, ...]
) -> np.ndarray:
    """The fraction of wrong labels: the median of its draws, then these [1 + resample].

    `own` [train]: what models that were not trained on an example hold of its label (margins, or minus the
    losses); `right` and `wrong` [model, trusted]: the same of trusted examples with right and with wrong
    labels. `own` is taken for a mixture of the two, in a few bins. For a draw the trusted examples are drawn
    again with replacement, and the fraction by its likelihood times (1 - fraction)^8, a Beta(1, 9): where the
    data hardly tell, about a tenth is wrong, as is usual.
    """
    both = np.concatenate([right.ravel(), wrong.ravel()])
    edges = np.unique(np.quantile(both, np.linspace(0, 1, _BINS + 1)[1:-1]))
    generator = np.random.default_rng(seed)
    bins = np.eye(len(edges) + 1)
    mine = bins[np.searchsorted(edges, own, "right")].sum(0)
    f0, f1 = (
        bins[np.searchsorted(edges, each, "right")].mean(0) for each in (right, wrong)
    )  # [trusted, bin]
    found = []
    for _ in range(resamples):
        some = generator.integers(0, len(f0), len(f0))
        found.append(generator.choice(_GRID, p=_posterior(mine, f0[some].sum(0), f1[some].sum(0))))
    return np.array([np.median(found), *found])


def _posterior(own: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """The probability of each fraction in the grid, from counts in bins."""
    f0, f1 = ((x + _FLOOR) / (x + _FLOOR).sum() for x in (right, wrong))
    log = np.log((1 - _GRID)[:, None] * f0 + _GRID[:, None] * f1) @ own + _PRIOR * np.log1p(-_GRID)
    each = np.exp(log - log.max())
    return np.asarray(each / each.sum())


def most_wrong(depth: Sequence[np.ndarray], count: int) -> float:
    """The largest fraction of wrong labels that agrees with the planted ones, without trusted data: no depth
    holds more wrong labels than examples, so pi <= depth / (fraction of the planted there). Since
    the smallest of many is looked for, the lower end of a band for all depths is taken (Massart 1990).

    `depth`: of the planted examples of each planting, of `count` others.
    """
    each = np.sort(np.concatenate(list(depth)))
    p = np.arange(1, len(each) + 1) / len(each)
    low = p - np.sqrt(np.log(1 / _WRONG) / 2 / len(p))
    ratio = (each + 1 / count) / np.maximum(low, 1e-9)
    return float(np.clip(ratio.min(), 0, 1))


def expected(
    depth: Sequence[np.ndarray], count: int, fractions: np.ndarray, undone: float, level: float,
    seed: tuple[int, ...], bound: bool,
) -> Expected:  # fmt: skip
    """What to expect of `count` examples, from the `depth` of planted ones and the `fractions` [1 + resample]
    of wrong labels. `undone`: of wrong labels that are flipped, how many become right. `bound`: the fraction
    is the largest possible, so intervals begin at 0, and what is most probable is not known."""
    grid = (np.arange(_DEPTHS) + 1) / _DEPTHS
    curves = [(each[:, None] <= grid).astype(np.float64) for each in depth]
    p = np.mean([one.mean(0) for one in curves], 0)
    again = resampled_means(curves, len(fractions) - 1, seed)
    k = np.arange(1, count + 1)
    at = np.concatenate([p[None], again])  # [1 + resample, depth]
    rows = np.array([
        _precision(np.interp(k / count, grid, one), k / count, pi, undone * pi)
        for one, pi in zip(at, fractions, strict=True)
    ])  # fmt: skip
    tail = (1 - level) / 2
    low, high = np.quantile(rows[1:], [tail, 1 - tail], axis=0)
    few, many = np.quantile(fractions[1:], [tail, 1 - tail])
    issues = (float(fractions[0] * count), float(few * count), float(many * count))
    low, high = np.minimum(low, rows[0]), np.maximum(high, rows[0])
    if bound:
        return Expected((np.nan, 0.0, issues[2]), np.full(count, np.nan), np.zeros(count), high)
    return Expected(issues, rows[0], low, high)


def _precision(p: np.ndarray, u: np.ndarray, pi: float, a: float) -> np.ndarray:
    """Precision at depths u, of which the planted have the fractions p."""
    below = (1 - pi) * (1 - a) - a * pi
    wrong = np.clip(((1 - pi) * p - a * u) / below, 0, 1) if below > 0 else p
    total = np.minimum(pi * np.maximum.accumulate(wrong), u)  # no more wrong ones than there are
    return _majorant(np.concatenate([[0.0], total]))[1:] / u


def suspicion_of(precision: np.ndarray) -> np.ndarray:
    """The probability of being wrong [k] of the k-th most suspicious example: what one more example adds to
    the expected number of wrong ones, which falls with k. NaN where that is not known."""
    total = np.concatenate([[0.0], precision * np.arange(1, len(precision) + 1)])
    return np.clip(np.diff(total), 0, 1)


def _majorant(total: np.ndarray) -> np.ndarray:
    """The least concave function above `total`: the more suspicious an example, the more it adds."""
    hull = [0]
    for k in range(1, len(total)):
        while len(hull) > 1 and _above(hull[-2], hull[-1], k, total):
            hull.pop()
        hull.append(k)
    return np.interp(np.arange(len(total)), hull, total[hull])


def _above(a: int, b: int, c: int, total: np.ndarray) -> bool:
    """Whether the line from a to c passes above b."""
    return bool((total[b] - total[a]) * (c - a) <= (total[c] - total[a]) * (b - a))
