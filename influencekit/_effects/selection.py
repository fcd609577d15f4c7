"""Sums of the scores of chosen examples: what they are on runs that did not choose.

A score is the effect of an example and the noise of its run, s_jr = effect_j + noise_jr. The k lowest scores
of a run are those of low effects and of low noise, so their sum is too low (the winner's curse). Remedies:

- held out: the same examples, summed on runs r = 1 ... R that took no part in the choice,

      T_r = sum over j in S of s_jr,    mean_r T_r,    an interval by Student's t over runs

- cross-fitted: every run chooses in turn by the same rule, S_a, and the others sum,

      mean over a != b of  sum over j in S_a of s_jb,    an interval by the jackknife over runs

- shrunk: the linear prediction of the effects from all runs, those that chose included,

      sum over j in S of  m + rho (mean_r s_jr - m),    rho = R ICC / (1 + (R - 1) ICC)

with m the mean of all scores. The first two are unbiased whatever the distributions; shrinking uses every
run for everything, and is right where effects and noise are about normal. None of them mends what a sum
leaves out: that effects of single removals need not add up.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import t as student

from influencekit._repeatability import intraclass, of_mean

__all__ = ["Sum", "crossfitted", "extremes", "held_out", "icc", "reliability", "shrunk"]


class Sum(NamedTuple):
    """A sum [...], the interval of its expected value over runs, `low` to `high`, and where the sum of one
    more run would lie, `run_low` to `run_high`; NaN where there are too few runs for an interval."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    run_low: np.ndarray
    run_high: np.ndarray


def icc(scores: np.ndarray) -> np.ndarray:
    """ICC(1) of scores [run, ..., train]: the fraction of their variance that all runs have in common, [...].

    1 = every run gives the same scores, 0 (or below) = they have nothing in common; NaN of a single run, or
    where all scores are the same.
    """
    if len(scores) < 2:
        return np.full(scores.shape[1:-1], np.nan)
    return np.asarray(intraclass(torch.tensor(scores)).numpy())


def reliability(icc: np.ndarray, runs: int) -> np.ndarray:
    """What the mean of so many runs has in common with the effects, by Spearman-Brown: rho, 0 to 1."""
    return np.asarray(of_mean(torch.tensor(icc), runs).square().numpy())


def shrunk(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The sum [...] over the examples in `mask` [..., train] of their effects, predicted from scores [run,
    ..., train]: their means over runs, pulled to the mean of all examples.

    It may be chosen by any of these runs, or all: the prediction is of the effects given all scores.
    """
    mean = scores.mean(0)
    centre = mean.mean(-1)
    count, total = mask.sum(-1), (mean * mask).sum(-1)
    rho = np.nan_to_num(reliability(icc(scores), len(scores)), nan=1.0)  # scores that are all the same
    return np.asarray(count * centre + rho * (total - count * centre))


def held_out(sums: np.ndarray, level: float = 0.95) -> Sum:
    """The mean of sums [run, ...] over runs that took no part in choosing what is summed.

    The interval of the expected sum is mean +- t sd / sqrt(R), that of one more run's sum mean +- t sd
    sqrt(1 + 1/R); both NaN for a single run. They suppose sums that are about normal over runs.
    """
    runs = len(sums)
    value = sums.mean(0)
    if runs < 2:
        return Sum(value, *(np.full_like(value, np.nan) for _ in range(4)))
    deviation = sums.std(0, ddof=1)
    return _around(value, deviation / np.sqrt(runs), deviation * np.sqrt(1 + 1 / runs), runs, level)


def crossfitted(pairs: np.ndarray, level: float = 0.95) -> Sum:
    """The mean over runs a that choose and other runs b that sum, of `pairs` [a, b, ...], the sums over what
    a chose of the scores of b; the diagonal does not count.

    It is the expected sum over what *a* run chooses: of the rule, not of one choice. The interval is by the
    jackknife over runs, NaN for fewer than three; that of one more run's sum is from the deviation over b
    of the means over a.
    """
    runs = len(pairs)
    off = pairs * (1 - np.eye(runs)).reshape(runs, runs, *[1] * (pairs.ndim - 2))
    total, chose, summed = off.sum((0, 1)), off.sum(1), off.sum(0)
    value = total / (runs * (runs - 1))
    if runs < 3:
        return Sum(value, *(np.full_like(value, np.nan) for _ in range(4)))
    without = (total - chose - summed) / ((runs - 1) * (runs - 2))
    error = np.sqrt((runs - 1) / runs * ((without - without.mean(0)) ** 2).sum(0))
    one = np.sqrt(error**2 + (summed / (runs - 1)).var(0, ddof=1))
    return _around(value, error, one, runs, level)


def extremes(values: np.ndarray, k: int, side: int) -> np.ndarray:
    """Masks [..., train] of the k lowest (side -1) or highest (1) of values [..., train]; NaN last."""
    if not k:
        return np.zeros(values.shape, dtype=bool)
    order = np.argsort(np.where(np.isnan(values), np.inf, -side * values), axis=-1, kind="stable")
    found = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(found, order[..., :k], True, axis=-1)
    return found


def _around(value: np.ndarray, error: np.ndarray, one: np.ndarray, runs: int, level: float) -> Sum:
    wide = student.ppf((1 + level) / 2, runs - 1)
    return Sum(value, value - wide * error, value + wide * error, value - wide * one, value + wide * one)
