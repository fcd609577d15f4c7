"""Which score finds planted wrong labels best, and what that says of the wrong labels that nobody planted.

A planting is a run with some labels flipped. Of its examples, the planted ones are sure to be as wrong as a
flip makes them; the others are as right or wrong as they were. A score is read by ranks alone, since runs
with other labels have other losses: `normal_scores` [train] are high for the suspicious.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm, rankdata

__all__ = ["Calibration", "Finding", "combined", "depth_of", "normal_scores", "resampled_means", "weights_of"]

_RIDGE = 1.0  # on the weights of a combination
_K = 512  # depths at which recall is read


class Finding(NamedTuple):
    """How one score finds planted labels: for each planting the `depth` [planted] in 0 ... 1 of each planted
    example, the fraction of unplanted ones that are more suspicious, and `precision`, `ap` [planting]."""

    depth: list[np.ndarray]
    precision: np.ndarray
    ap: np.ndarray

    @property
    def auc(self) -> float:
        """The probability that a planted example is more suspicious than another one."""
        return float(np.mean([1 - each.mean() for each in self.depth]))


class Calibration(NamedTuple):
    """How each score finds planted labels, by name, and the weights of the combination, if there is one."""

    findings: dict[str, Finding]
    weights: np.ndarray | None

    @property
    def lead(self) -> str:
        """The score that finds planted labels best, by AUC: what is not planted and suspicious may be wrong
        as well, and hides the planted ones from all figures that look at the first places alone."""
        return max(self.findings, key=lambda name: self.findings[name].auc)


def normal_scores(scores: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Scores [..., train], low = suspicious, as quantiles of a normal distribution, high = suspicious; of
    examples that are not `used` 0."""
    found = np.zeros(scores.shape)
    ranks = rankdata(scores[..., used], axis=-1)
    found[..., used] = -norm.ppf((ranks - 0.5) / len(used))
    return found


def weights_of(z: Sequence[np.ndarray], planted: Sequence[np.ndarray]) -> np.ndarray:
    """Weights [score], none below 0, of the logistic regression of being planted on z [score, example], over
    plantings; classes count alike, and a ridge keeps the weights small."""
    x, y = np.concatenate(z, 1), np.concatenate(planted)
    each = np.where(y, 0.5 / max(y.sum(), 1), 0.5 / max((~y).sum(), 1)) * y.sum() * 2

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        t = w[:-1] @ x + w[-1]
        value = (each * (np.logaddexp(0, t) - y * t)).sum() + _RIDGE / 2 * (w[:-1] ** 2).sum()
        d = each * (expit(t) - y)
        return value, np.append(x @ d + _RIDGE * w[:-1], d.sum())

    start = np.append(np.full(len(x), 1 / len(x)), 0.0)
    bounds = [(0, None)] * len(x) + [(None, None)]
    return np.asarray(minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x[:-1])


def combined(z: np.ndarray, weights: np.ndarray, used: np.ndarray) -> np.ndarray:
    """The weighted sum of z [score, train], as quantiles again."""
    return normal_scores(-(weights @ z), used)


def depth_of(z: np.ndarray, planted: np.ndarray, used: np.ndarray) -> np.ndarray:
    """For each planted example of z [train], the fraction of unplanted ones that are more suspicious; equal
    ones count half."""
    others = np.sort(-z[used[~planted[used]]])
    mine = -z[planted]
    low, high = np.searchsorted(others, mine, "left"), np.searchsorted(others, mine, "right")
    return (low + high) / 2 / len(others)


def finding(z: Sequence[np.ndarray], planted: Sequence[np.ndarray], used: np.ndarray) -> Finding:
    """How z [train] of each planting finds the planted ones."""
    depth, precision, ap = [], [], []
    for one, mask in zip(z, planted, strict=True):
        depth.append(depth_of(one, mask, used))
        hits = mask[used][np.argsort(-one[used], kind="stable")]
        among = hits.cumsum() / np.arange(1, len(hits) + 1)
        precision.append(among[hits.sum() - 1])
        ap.append(among[hits].mean())
    return Finding(depth, np.array(precision), np.array(ap))


def calibrate(
    names: Sequence[str], z: Sequence[np.ndarray], planted: Sequence[np.ndarray], used: np.ndarray
) -> Calibration:
    """z [score, train] and masks of each planting. The combination is judged on plantings that had no part in
    its weights."""
    findings = {n: finding([one[k] for one in z], planted, used) for k, n in enumerate(names)}
    if len(names) < 2:
        return Calibration(findings, None)
    return Calibration(
        {**findings, "combined": finding(_crossfitted(z, planted, used), planted, used)},
        _fitted(z, planted, used),
    )


def _crossfitted(
    z: Sequence[np.ndarray], planted: Sequence[np.ndarray], used: np.ndarray
) -> list[np.ndarray]:
    each = []
    for k, one in enumerate(z):
        rest = [j for j in range(len(z)) if j != k]
        each.append(combined(one, _fitted([z[j] for j in rest], [planted[j] for j in rest], used), used))
    return each


def _fitted(z: Sequence[np.ndarray], planted: Sequence[np.ndarray], used: np.ndarray) -> np.ndarray:
    return weights_of([one[:, used] for one in z], [mask[used] for mask in planted])


def resampled_means(
    each: Sequence[np.ndarray], resamples: int, seed: tuple[int, ...]
) -> np.ndarray:  # fmt: skip
    """Means [resample, ...] of what `each` planting has of its planted examples [planted, ...]: plantings are
    drawn again with replacement, and within each its examples."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        chosen = [each[k] for k in generator.integers(0, len(each), len(each))]
        found.append(np.mean([one[generator.integers(0, len(one), len(one))].mean(0) for one in chosen], 0))
    return np.array(found)
