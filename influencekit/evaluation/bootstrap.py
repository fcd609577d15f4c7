"""Percentile intervals of rank correlations: the pairs are drawn again with replacement."""

import numpy as np

__all__ = ["drawn", "interval", "spearman"]


def drawn(n: int, resamples: int, seed: tuple[int, ...]) -> np.ndarray:
    """How often [resample, n] each of n pairs is in a resample of n pairs, drawn with replacement."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)


def spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's correlation [resample] of x and y [n], of which each pair is there `counts` [resample, n]
    times; ties at their average rank, NaN where either side is constant. Cost O(resamples n)."""
    a, b = (_centred(values, counts) for values in (x, y))
    a2, b2, ab = ((counts * product).sum(1) for product in (a * a, b * b, a * b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((a2 > 0) & (b2 > 0), np.clip(ab / np.sqrt(a2 * b2), -1, 1), np.nan)


def interval(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The middle part of `values` [resample, ...] that holds the share `level` of them; NaN left out."""
    tail = (1 - level) / 2
    held = np.where(np.isnan(values).all(0), 0.0, values)  # all NaN: no warning, and NaN again below
    low, high = np.nanquantile(held, [tail, 1 - tail], axis=0)
    nothing = np.isnan(values).all(0)
    return np.where(nothing, np.nan, low), np.where(nothing, np.nan, high)


def _centred(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Ranks [resample, n] within each resample, less their mean, which is (n + 1) / 2 whatever the ties."""
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, side="left")
    up_to = np.searchsorted(ordered, values, side="right")
    total = np.zeros((len(counts), len(values) + 1))
    total[:, 1:] = counts[:, np.argsort(values, kind="stable")].cumsum(1)
    return (total[:, below] + total[:, up_to] + 1) / 2 - (len(values) + 1) / 2
