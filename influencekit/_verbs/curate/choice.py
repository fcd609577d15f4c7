"""Which chooser and k, for every fold by the other folds; and what examples say that had no part in it.

Nested cross-validation. `change` [run, trusted, group, chooser, k] of the sets that a group of `Folds` chose:

- fold f judges the sets S_f that all other folds chose. Which of them, (chooser, k), is decided by fold g for
  every g != f on the sets S_fg that f and g did not choose. So no example has a part in what it judges.
- in a run r of several, the scores of the other runs choose, and the other runs say which (chooser, k).
- the interval is a bootstrap over all trusted examples, and over runs, of the changes that they judge,
  widened by a quarter.

For the mean effect of the sets that were judged the plain interval is right in large samples (Bayle et al.,
Cross-validation confidence intervals for test error, NeurIPS 2020). But folds share the examples that choose,
and what is recommended is another set, chosen by all: with few examples it is too narrow (Bates, Hastie and
Tibshirani, Cross-validation: what does it estimate and how well does it do it?, JASA 2024). In 57 runs
(built as in benchmarks/curation.py, seeds 0 to 5), whose effect as many other examples measured, the plain
interval agreed with these in 83 % where it should in 95 %, with 1.2 to 1.4 times its own deviation.

What is recommended was chosen by more examples than the sets that are judged, so it does better. How much
better is not known, but no better than those examples say that chose it. So the interval of the verdict goes
on to there.
"""

from typing import NamedTuple

import numpy as np

from influencekit._verbs.curate.folds import Folds
from influencekit._verbs.curate.sets import intervals

__all__ = ["Choice", "choice_of", "judged", "verdict_interval", "wide_intervals"]

_WIDER = 1.25  # than the plain bootstrap


class Choice(NamedTuple):
    """Chooser and place of k with the lowest mean loss, and by how much it changes: above zero, nothing is to
    be dropped."""

    chooser: int
    k: int
    change: float

    @property
    def drops(self) -> bool:
        return self.change < 0


def choice_of(change: np.ndarray) -> Choice:
    """The best of change [run, trusted, chooser, k], by the mean over runs and examples, without NaN."""
    mean = np.nanmean(change, axis=(0, 1))
    c, k = np.unravel_index(np.argmin(mean), mean.shape)
    return Choice(int(c), int(k), float(mean[c, k]))


def judged(change: np.ndarray, folds: Folds) -> tuple[list[list[Choice]], np.ndarray]:
    """The choice of each [run][fold], and what it changes of each trusted example's loss, [run, trusted]; 0
    where it drops nothing."""
    runs, own = len(change), folds.unseen(change)
    choices, found = list[list[Choice]](), np.zeros(own.shape[:2])
    inner = [folds.unseen(change, (fold,)) for fold in range(folds.count)]
    for run in range(runs):
        others = [r for r in range(runs) if r != run] or [run]
        choices.append([choice_of(one[others]) for one in inner])
        for fold, choice in enumerate(choices[-1]):
            if choice.drops:
                mine = folds.part == fold
                found[run, mine] = own[run, mine, choice.chooser, choice.k]
    return choices, found


def wide_intervals(
    change: np.ndarray, level: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The ends [...] of the interval of the mean of change [run, example, ...]: a bootstrap, widened."""
    mean = change.mean((0, 1))
    low, high = intervals(change, level, resamples, seed, of_runs=True)
    return mean + _WIDER * (low - mean), mean + _WIDER * (high - mean)


def verdict_interval(
    change: np.ndarray, choosing: float, level: float, resamples: int, seed: int
) -> tuple[float, float]:
    """The ends of the interval of the verdict, of what is judged, change [run, trusted]. The better end goes
    on to `choosing`, the effect of the set itself on the examples that chose it. Nothing judged: 0, 0."""
    low, high = (float(end) for end in wide_intervals(change, level, resamples, seed))
    return (min(low, choosing) if change.any() else low), high
