"""How well measurements of the same examples repeat themselves, and how well an estimate can then agree.

Runs r = 1 ... R measure the effect of every example j once, with an error of their own:

    d[r, j] = m[j] + e[r, j]                                  m: the expected effect
    MSB = R / (n - 1) sum_j (mean_r d[r, j] - mean d)^2
    MSW = sum_rj (d[r, j] - mean_r d[r, j])^2 / (n (R - 1))
    ICC = (MSB - MSW) / (MSB + (R - 1) MSW)                   estimates var m / (var m + var e)

ICC is the correlation to expect between two runs that differ in e alone. So sqrt(ICC) is that of m with one
run, and sqrt(R ICC / (1 + (R - 1) ICC)) that of m with the mean of R runs: no estimate that knows nothing of
the errors correlates better. For agreement in ranks and top parts the same is done to the correlation of the
normal pair that has this agreement.

Sources: Spearman, "The proof and measurement of association between two things", 1904; Shrout and Fleiss,
"Intraclass correlations", Psychological Bulletin 1979.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from influencekit.metrics import FRACTION, METRICS

__all__ = ["Interval", "again", "attainable", "consistent", "intraclass", "interval", "of_mean", "of_one"]


class Interval(NamedTuple):
    """What R runs say of the expected effects, each [...]: a t-interval around the mean.

    `deviation` is that of the runs (R - 1), `error` that of their mean. `certainty` is the probability that
    the expected effect has the sign of the mean, from the same t distribution; NaN for a mean of 0.
    `size` = mean / deviation.
    """

    mean: Tensor
    low: Tensor
    high: Tensor
    deviation: Tensor
    error: Tensor
    certainty: Tensor
    size: Tensor


def intraclass(effects: Tensor) -> Tensor:
    """ICC [...] of effects [run, ..., train]; NaN where all are one number, and below 0 where runs agree less
    than chance lets them."""
    runs, n = effects.shape[0], effects.shape[-1]
    mean = effects.mean(0)
    between = runs * mean.var(-1)
    within = (effects - mean).square().sum((0, -1)) / (n * (runs - 1))
    return (between - within) / (between + (runs - 1) * within)


def consistent(effects: Tensor) -> Tensor:
    """`intraclass` of effects [run, ..., train] from each of which its run's mean is taken, with the one
    degree of freedom that this costs: what a run adds to all examples alike is no disagreement then.

    ICC(3, 1) of Shrout and Fleiss.
    """
    runs, n = effects.shape[0], effects.shape[-1]
    centred = effects - effects.mean(-1, keepdim=True)
    mean = centred.mean(0)
    between = runs * mean.var(-1)
    within = (centred - mean).square().sum((0, -1)) / ((n - 1) * (runs - 1))
    return (between - within) / (between + (runs - 1) * within)


def of_one(icc: Tensor) -> Tensor:
    """Correlation of the expected effect with one run; 0 where ICC is below 0."""
    return icc.clamp(0, 1).sqrt()


def of_mean(icc: Tensor, runs: int) -> Tensor:
    """Correlation of the expected effect with the mean of so many runs; 0 where ICC is below 0."""
    icc = icc.clamp(0, 1)
    return (runs * icc / (1 + (runs - 1) * icc)).sqrt()


def attainable(metric: str, agreement: Tensor, runs: int = 1) -> Tensor:
    """How well the expected effect itself agrees with the mean of so many runs, if single runs agree with
    each other like this: in the same metric, at least what chance gives.

    Exact for "pearson"; for the others under the assumption that two runs are jointly normal after some
    monotone change of their values, as to which of them asks only ranks.
    """
    to_latent, from_latent = _LATENT[metric]
    return from_latent(of_mean(to_latent(agreement), runs))


def again(metric: str, agreement: Tensor, runs: int = 1) -> Tensor:
    """How well one more run agrees with the mean of so many others, under the assumption of `attainable`."""
    to_latent, from_latent = _LATENT[metric]
    latent = to_latent(agreement)
    return from_latent(of_one(latent) * of_mean(latent, runs))


def interval(effects: Tensor, level: float) -> Interval:
    """The `Interval` of effects [run, ...]."""
    runs = len(effects)
    mean, deviation = effects.mean(0), effects.std(0)
    error = deviation / runs**0.5
    reach = float(stats.t.ppf((1 + level) / 2, runs - 1)) * error
    apart = torch.where((error == 0) & (mean != 0), torch.inf, mean.abs() / error)
    certainty = torch.from_numpy(np.asarray(stats.t.cdf(apart.cpu().numpy(), runs - 1))).to(mean)
    size = torch.where((deviation == 0) & (mean != 0), mean.sign() * torch.inf, mean / deviation)
    certainty = torch.where(mean == 0, torch.nan, certainty)
    return Interval(mean, mean - reach, mean + reach, deviation, error, certainty, size)


@cache
def _jaccards() -> tuple[np.ndarray, np.ndarray]:
    """Correlations of a normal pair, ascending, and the Jaccard similarity of its top parts at each.

    P(both in the top) has the derivative phi2(z, z; rho) in rho (Plackett 1954); rho = sin(angle).
    """
    z = stats.norm.isf(FRACTION)
    angle = np.linspace(0, np.pi / 2, 4001)
    density = np.exp(-(z**2) / (1 + np.sin(angle))) / (2 * np.pi)
    both = FRACTION**2 + np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(angle))])
    return np.sin(angle), both / (2 * FRACTION - both)


def _interpolated(x: Tensor, at: np.ndarray, values: np.ndarray) -> Tensor:
    found = np.interp(x.cpu().numpy(), at, values)
    return torch.from_numpy(np.asarray(found)).to(x)


_Map = Callable[[Tensor], Tensor]
_LATENT: Mapping[str, tuple[_Map, _Map]] = MappingProxyType(
    {  # metric: (correlation of the normal pair that has this agreement, and back)
        "pearson": (lambda a: a, lambda rho: rho),
        "spearman": (
            lambda a: 2 * torch.sin(torch.pi / 6 * a),
            lambda rho: 6 / torch.pi * torch.asin(rho / 2),
        ),
        "kendall": (lambda a: torch.sin(torch.pi / 2 * a), lambda rho: 2 / torch.pi * torch.asin(rho)),
        "jaccard": (
            lambda a: _interpolated(a, *_jaccards()[::-1]),
            lambda rho: _interpolated(rho, *_jaccards()),
        ),
    }
)
assert _LATENT.keys() == METRICS.keys()
