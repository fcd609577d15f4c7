"""The sets that are left out: the most harmful of every chooser, nested, and random ones of these sizes."""

from collections.abc import Sequence

import numpy as np

from influencekit._effects.selection import extremes
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InputError
from influencekit.evaluation.retraining import random_sets, sizes

__all__ = ["at_random", "most_harmful", "scaled", "sizes_of", "trained"]

_FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2)  # of the examples, unless the user says how many


def trained(trajectory: Trajectory) -> np.ndarray:
    """Positions of the examples that some step of the run holds, ascending."""
    used = trajectory.plan.indices.unique()
    return used[used >= 0].cpu().numpy()


def sizes_of(count: int, k: tuple[int, ...] | None) -> tuple[int, ...]:
    """How many of `count` examples to leave out: as asked for, or 1, 2, 5, 10 and 20 % of them."""
    return sizes(count, k or tuple(sorted({max(1, round(f * count)) for f in _FRACTIONS})))


def most_harmful(
    scores: np.ndarray, names: Sequence[str], used: np.ndarray, ks: Sequence[int]
) -> np.ndarray:  # fmt: skip
    """Masks [..., chooser, k, train] of the k lowest of scores [..., chooser, train], among the examples that
    are `used`; the sets of a chooser are nested. Errors: fewer examples have scores than the largest set has.
    """
    allowed = np.full(scores.shape, np.nan)
    allowed[..., used] = scores[..., used]
    known = np.isfinite(allowed).sum(-1).reshape(-1, len(names)).min(0)
    for name, count in zip(names, known, strict=True):
        if count < ks[-1]:
            raise InputError(
                f"{name} scored {count} examples, and the largest set has {ks[-1]}; let it score all, or "
                "give a smaller k"
            )
    return np.stack([extremes(allowed, k, -1) for k in ks], -2)


def at_random(count: int, used: np.ndarray, ks: Sequence[int], draws: int, seed: int) -> np.ndarray:
    """Masks [draw, k, train] of random sets of the examples that are `used`."""
    found = np.zeros((draws * len(ks), count), dtype=bool)
    found[:, used] = random_sets(len(used), list(ks) * draws, (seed % 2**64, 1))
    return found.reshape(draws, len(ks), count)


def scaled(influence: np.ndarray) -> np.ndarray:
    """Scores [train] between 0, the most harmful, and 1, the most helpful; 0.5 is no effect at all."""
    largest = np.nanmax(np.abs(influence), initial=0.0)
    return 0.5 + 0.5 * influence / (largest if largest > 0 else 1.0)
