"""The sets that are left out: the most harmful of every chooser, nested, and random ones of these sizes."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.remove import ranked
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
    return sizes(count, k or tuple(sorted({max(1, round(f * count)) for f in _FRACTIONS})))


def most_harmful(
    scores: Mapping[str, xr.Dataset], used: np.ndarray, ks: Sequence[int]
) -> np.ndarray:  # fmt: skip
    """Masks [chooser, k, train] of the k lowest scores, among the examples that are `used`; the sets of a
    chooser are nested. Errors: fewer examples have scores than the largest set has."""
    found, may = [], set(used.tolist())
    for name, one in scores.items():
        order = [p for p in ranked(one, "harmful") if p in may]
        if len(order) < ks[-1]:
            raise InputError(
                f"{name} scored {len(order)} examples, and the largest set has {ks[-1]}; let it score all, "
                "or give a smaller k"
            )
        masks = np.zeros((len(ks), one.sizes["train"]), dtype=bool)
        for mask, k in zip(masks, ks, strict=True):
            mask[order[:k]] = True
        found.append(masks)
    return np.stack(found)


def at_random(count: int, used: np.ndarray, ks: Sequence[int], draws: int, seed: int) -> np.ndarray:
    """Masks [draw, k, train] of random sets of the examples that are `used`."""
    found = np.zeros((draws * len(ks), count), dtype=bool)
    found[:, used] = random_sets(len(used), list(ks) * draws, (seed % 2**64, 1))
    return found.reshape(draws, len(ks), count)


def intervals(change: np.ndarray, level: float, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The ends [...] of the bootstrap interval of the mean of change [example, ...] over examples, which are
    drawn again with replacement (percentiles)."""
    flat, means = change.reshape(len(change), -1), list[np.ndarray]()
    for start in range(0, resamples, _AT_ONCE):
        counts = drawn(len(change), min(_AT_ONCE, resamples - start), (seed % 2**64, 2, start))
        means.append(counts @ flat / len(change))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return low.reshape(change.shape[1:]), high.reshape(change.shape[1:])


def scaled(influence: np.ndarray) -> np.ndarray:
    """Scores [train] between 0, the most harmful, and 1, the most helpful; 0.5 is no effect at all."""
    largest = np.nanmax(np.abs(influence), initial=0.0)
    return 0.5 + 0.5 * influence / (largest if largest > 0 else 1.0)
