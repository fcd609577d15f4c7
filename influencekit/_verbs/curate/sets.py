"""The sets that are left out: the most harmful of every chooser, nested, and random ones of these sizes."""

from collections.abc import Sequence

import numpy as np

from influencekit._effects.selection import extremes
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InputError
from influencekit.evaluation.bootstrap import drawn
from influencekit.evaluation.retraining import random_sets, sizes

__all__ = ["at_random", "intervals", "most_harmful", "scaled", "sizes_of", "trained"]

_FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2)  # of the examples, unless the user says how many
_AT_ONCE = 100  # resamples


def trained(trajectory: Trajectory) -> np.ndarray:
    """Positions of the examples that some step of the run holds, ascending."""
    used = trajectory.plan.indices.unique()
    return used[used >= 0].cpu().numpy()


def sizes_of(count: int, k: tuple[int, ...] | None) -> tuple[int, ...]:
    """How many of `count` examples to leave out: as asked for, or 1, 2, 5, 10 and 20 % of them."""
    if k is None:
        k = tuple(sorted({max(1, round(f * count)) for f in _FRACTIONS}))
    return sizes(count, k)


def most_harmful(
    scores: np.ndarray, names: Sequence[str], used: np.ndarray, ks: Sequence[int]
) -> np.ndarray:  # fmt: skip
    """Masks [..., chooser, k, train] of the k lowest of scores [..., chooser, train], among the examples that
    are `used`; the sets of a chooser are nested. Errors: examples without scores, of which one may
    be the most harmful."""
    allowed = np.full(scores.shape, np.nan)
    allowed[..., used] = scores[..., used]
    known = np.isfinite(allowed).sum(-1).reshape(-1, len(names)).min(0)
    for name, count in zip(names, known, strict=True):
        if count < len(used):
            raise InputError(
                f"choosers: {name} scored {count} of {len(used)} examples, and the most harmful may be "
                "among the others; let it score all"
            )
    return np.stack([extremes(allowed, k, -1) for k in ks], -2)


def at_random(count: int, used: np.ndarray, ks: Sequence[int], draws: int, seed: int) -> np.ndarray:
    """Masks [draw, k, train] of random sets of the examples that are `used`."""
    found = np.zeros((draws * len(ks), count), dtype=bool)
    found[:, used] = random_sets(len(used), list(ks) * draws, (seed % 2**64, 1))
    return found.reshape(draws, len(ks), count)


def intervals(
    change: np.ndarray, level: float, resamples: int, seed: int, of_runs: bool = False
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The ends [...] of the bootstrap interval of the mean of change [example, ...] over examples, which are
    drawn again with replacement (percentiles). `of_runs`: of change [run, example, ...] over both, where
    runs, if there are several, are drawn by themselves."""
    if not of_runs:
        change = change[None]
    runs, examples = change.shape[:2]
    flat, means = change.reshape(runs, examples, -1), list[np.ndarray]()
    for start in range(0, resamples, _AT_ONCE):
        count, seeds = min(_AT_ONCE, resamples - start), (seed % 2**64, 2, start)
        each = np.einsum("be,rem->brm", drawn(examples, count, seeds) / examples, flat, optimize=True)
        weights = drawn(runs, count, (*seeds, 1)) / runs if runs > 1 else np.ones((count, 1))
        means.append(np.einsum("br,brm->bm", weights, each))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return low.reshape(change.shape[2:]), high.reshape(change.shape[2:])


def scaled(influence: np.ndarray) -> np.ndarray:
    """Scores [train] between 0, the most harmful, and 1, the most helpful; 0.5 is no effect at all."""
    largest = np.nanmax(np.abs(influence), initial=0.0)
    return 0.5 + 0.5 * influence / (largest if largest > 0 else 1.0)
