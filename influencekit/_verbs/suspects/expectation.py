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
from scipy.stats import beta

from influencekit._verbs.suspects.calibration import resampled_means

__all__ = ["Expected", "Mixture", "expected", "fraction_wrong", "most_wrong", "suspicion_of"]

_GRID = np.linspace(0.0, 0.9, 901)
_TOTALS = np.linspace(0.0025, 0.8975, 180)
_PRIOR = 16  # of Beta(1, 1 + 16), of the total
_ALIKE = 10  # how alike labels are: the fraction of each is Beta(_ALIKE total, _ALIKE (1 - total))
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


class Mixture(NamedTuple):
    """Examples of which some have wrong labels, and trusted ones that show what right and wrong labels are
    like: what models that were not trained on an example hold of its label (margins, or minus the losses).

    `own` [train]; `right`, `wrong` [model, trusted]: of trusted examples with a right and with a wrong label;
    `of_right`, `of_wrong` [trusted]: how much each counts there.
    """

    own: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    of_right: np.ndarray
    of_wrong: np.ndarray


def fraction_wrong(mixtures: Sequence[Mixture], resamples: int, seed: tuple[int, ...]) -> np.ndarray:
    """The fraction of wrong labels: the median of its draws, then these [1 + resample].

    For a draw the trusted examples are drawn again with replacement, the same for all mixtures, and then the
    fractions by their probability: each mixture has a likelihood, in a few bins, and a Beta distribution
    around a total that all share. The total's is Beta(1, 17): where the data hardly tell, about one in twenty
    is wrong, as is usual (Northcutt, Athalye and Mueller, Pervasive label errors in test sets destabilize
    machine learning benchmarks, NeurIPS 2021). The mean of the fractions, by the number of examples, is the
    draw.
    """
    generator = np.random.default_rng(seed)
    counts = [_counted(one) for one in mixtures]
    sizes = np.array([len(one.own) for one in mixtures])
    between = (_GRID[1:] + _GRID[:-1]) / 2
    ends = np.array([0.0, *between, 1.0])
    given = np.diff(beta.cdf(ends, _ALIKE * _TOTALS[:, None], _ALIKE * (1 - _TOTALS)[:, None]))
    trusted, found = len(counts[0][1]), np.zeros(resamples)
    for r in range(resamples):
        some = generator.integers(0, trusted, trusted)
        likely = np.array([_likelihood(own, f0[some].sum(0), f1[some].sum(0)) for own, f0, f1 in counts])
        total = _draw(np.log(given @ likely.T).sum(1) + _PRIOR * np.log1p(-_TOTALS), generator)
        each = [_GRID[_draw(np.log(one * given[total] + 1e-300), generator)] for one in likely]
        found[r] = each @ sizes / sizes.sum()
    return np.array([np.median(found), *found])


def _draw(log: np.ndarray, generator: np.random.Generator) -> int:
    each = np.exp(log - log.max())
    return int(generator.choice(len(log), p=each / each.sum()))


def _counted(one: Mixture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts in bins: of `own` [bin], and of each trusted example, right and wrong [trusted, bin]."""
    both = np.concatenate([one.right[:, one.of_right > 0].ravel(), one.wrong[:, one.of_wrong > 0].ravel()])
    edges = np.unique(np.quantile(both, np.linspace(0, 1, _BINS + 1)[1:-1]))
    bins = np.eye(len(edges) + 1)
    own, right, wrong = (bins[np.searchsorted(edges, x, "right")] for x in (one.own, one.right, one.wrong))
    return own.sum(0), right.mean(0) * one.of_right[:, None], wrong.mean(0) * one.of_wrong[:, None]


def _likelihood(own: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """The likelihood of each fraction in the grid, from counts in bins; at most 1."""
    f0, f1 = ((x + _FLOOR) / (x + _FLOOR).sum() for x in (right, wrong))
    log = np.log((1 - _GRID)[:, None] * f0 + _GRID[:, None] * f1) @ own
    return np.asarray(np.exp(log - log.max()))


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
