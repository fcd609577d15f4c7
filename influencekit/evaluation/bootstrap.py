"""Bootstrap intervals of rank correlations: the pairs are drawn again with replacement."""

import numpy as np

__all__ = ["drawn", "interval", "spearman"]


def drawn(n: int, resamples: int, seed: tuple[int, ...]) -> np.ndarray:
    """How often [resample, n] each of n pairs is in a resample of n pairs, drawn with replacement."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)


def spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's correlation [resample, ...] of x [..., n] with y [n], pairs of which each is there `counts`
    [resample, n] times; ties at their average rank, NaN where either side is constant.

    Cost O(resamples n) a row: ranks within a resample are sums of counts, nothing is sorted again.
    """
    b = _centred(y, counts)
    b2 = (counts * b * b).sum(1)
    found = []
    for row in x.reshape(-1, len(y)):
        a = _centred(row, counts)
        weighted = counts * a
        a2, ab = (weighted * a).sum(1), (weighted * b).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            rho = np.clip(ab / np.sqrt(a2 * b2), -1, 1)
        found.append(np.where((a2 > 0) & (b2 > 0), rho, np.nan))
    return np.stack(found, 1).reshape(len(counts), *x.shape[:-1])


def interval(estimate: np.ndarray, again: np.ndarray, level: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The interval at `level` about correlations [...], or means of such, from resamples [resample, ...].

        z(low) = 2 z(estimate) - upper quantile of z(again),   z = atanh          (basic bootstrap)

    Pairs that are drawn twice are ties, so resampled rank correlations lie lower than the estimate: for one
    query this is lost in the noise, for the mean over many the plain percentiles miss the truth, and often
    the estimate itself (docs/evaluation.md has the coverage of both). n pairs cannot tell a correlation
    nearer 1 than 12 / (n^3 - n) from 1; half of that is where z ends. Source: Davison and Hinkley 1997, 5.2.
    """
    tail, end = (1 - level) / 2, 1 - 6 / (n**3 - n)
    nothing = np.isnan(again).all(0) | np.isnan(estimate)
    z = np.arctanh(np.clip(np.where(nothing, 0.0, again), -end, end))
    middle = 2 * np.arctanh(np.clip(estimate, -end, end))
    high, low = (middle - each for each in np.nanquantile(z, [tail, 1 - tail], axis=0))
    known = np.where(nothing, np.nan, 1.0)
    sure = np.abs(estimate) > end  # a perfect ranking is perfect in every resample
    low, high = (known * np.where(sure, estimate, np.tanh(each)) for each in (low, high))
    return low, high


def _centred(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Ranks [resample, n] within each resample, less their mean, which is (n + 1) / 2 whatever the ties."""
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, side="left")
    up_to = np.searchsorted(ordered, values, side="right")
    total = np.zeros((len(counts), len(values) + 1))
    total[:, 1:] = counts[:, np.argsort(values, kind="stable")].cumsum(1)
    return (total[:, below] + total[:, up_to] + 1) / 2 - (len(values) + 1) / 2
