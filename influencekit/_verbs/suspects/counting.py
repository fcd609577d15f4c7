"""How many labels are wrong: of each given label by itself, with one total that all labels share.

Flips alone do not tell: with two classes, exchanging right and wrong everywhere gives the same data. Trusted
examples do, or else there is an upper bound only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import beta, norm

__all__ = ["Mixture", "fractions_wrong", "most_wrong", "none_wrong"]

_GRID = np.linspace(0.0, 0.9, 901)
_TOTALS = np.linspace(0.0025, 0.8975, 180)
_PRIOR = 16  # of Beta(1, 1 + 16), of the total
_ALIKE = 10  # how alike labels are: the fraction of each is Beta(_ALIKE total, _ALIKE (1 - total))
_BINS = 6  # an even number: the middle, which tells right from wrong, is an edge
_FLOOR = 0.05  # trusted examples in a bin that has none: more would hide few wrong labels
_WRONG = 0.05  # how often the bound may be below the truth


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


def fractions_wrong(mixtures: Sequence[Mixture], resamples: int, seed: tuple[int, ...]) -> np.ndarray:
    """Draws of the fraction of wrong labels among the examples of each mixture [resample, mixture].

    For a draw the trusted examples are drawn again with replacement, the same for all mixtures. Then how
    often labels come out wrong, by its probability: each mixture has a likelihood, in a few bins, and a Beta
    distribution around a total that all share. Then which of these examples are wrong, in each bin; so where
    bins tell right from wrong, wrong ones are counted and not estimated.

    The total's distribution is Beta(1, 17): where the data hardly tell, about one in twenty is wrong, as is
    usual (Northcutt, Athalye and Mueller, Pervasive label errors in test sets destabilize machine learning
    benchmarks, NeurIPS 2021).
    """
    generator = np.random.default_rng(seed)
    counts = [_counted(one) for one in mixtures]
    between = (_GRID[1:] + _GRID[:-1]) / 2
    ends = np.array([0.0, *between, 1.0])
    given = np.diff(beta.cdf(ends, _ALIKE * _TOTALS[:, None], _ALIKE * (1 - _TOTALS)[:, None]))
    trusted, found = len(counts[0][1]), np.zeros((resamples, len(mixtures)))
    for r in range(resamples):
        some = generator.integers(0, trusted, trusted)
        bins = [(own, _smooth(f0[some].sum(0)), _smooth(f1[some].sum(0))) for own, f0, f1 in counts]
        likely = np.array([_likelihood(*one) for one in bins])
        total = _draw(np.log(given @ likely.T).sum(1) + _PRIOR * np.log1p(-_TOTALS), generator)
        for k, (own, f0, f1) in enumerate(bins):
            rate = _GRID[_draw(np.log(likely[k] * given[total] + 1e-300), generator)]
            wrong = rate * f1 / ((1 - rate) * f0 + rate * f1)
            found[r, k] = generator.binomial(own.astype(np.int64), wrong).sum() / own.sum()
    return found


def none_wrong(mixtures: Sequence[Mixture]) -> float:
    """How probable a difference as large as that between training and trusted examples is if no label is
    wrong: where it is not small, trusted examples are too few to tell.

    A one-sided test of the means of f1 / (f + f1), by bin, where f1 is of wrong labels and f of right ones
    and those in training together. Mixtures count by their training examples.
    """
    difference = variance = 0.0
    for one in mixtures:
        own, f0, f1 = _counted(one)
        right, wrong = f0.sum(0), f1.sum(0) / f1.sum()
        n, m = own.sum(), right.sum()
        both = (own + right) / (n + m)
        like_wrong = wrong / np.maximum(wrong + both, 1e-300)
        difference += like_wrong @ (own - right * n / m)
        variance += n * n * (both @ (like_wrong - both @ like_wrong) ** 2) * (1 / n + 1 / m)
    return float(norm.sf(difference / variance**0.5)) if variance > 0 else 1.0


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


def _smooth(counts: np.ndarray) -> np.ndarray:
    """The fraction of each bin, none of them 0."""
    return (counts + _FLOOR) / (counts + _FLOOR).sum()


def _likelihood(own: np.ndarray, f0: np.ndarray, f1: np.ndarray) -> np.ndarray:
    """The likelihood of each fraction in the grid, from counts in bins; at most 1."""
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
