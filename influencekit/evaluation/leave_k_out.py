"""Leave-k-out: how far a sum of scores foretells the removal of k examples at once."""

from pathlib import Path

import numpy as np
import torch
import xarray as xr

from influencekit.effects.retrain import Strategy
from influencekit.errors import InputError
from influencekit.evaluation.lds import ranked_alike
from influencekit.evaluation.retraining import check_at_least, draw_seed, random_sets, set_effects
from influencekit.evaluation.scoring import Estimators, score
from influencekit.interfaces import Query
from influencekit.metrics import pearson
from influencekit.trajectory.trajectory import Trajectory
from influencekit.verbs.results import Windows
from influencekit.windows import Removal

__all__ = ["leave_k_out", "sizes"]


def leave_k_out(
    trajectory: Trajectory,
    query: Query | str = "test-loss",
    estimators: Estimators = ("dit",),
    windows: Windows = None,
    removal: Removal = "global",
    *,
    k: tuple[int, ...] | None = None,
    groups: int = 64,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
    subsets: str | Path | None = None,
    strategy: Strategy = "auto",
) -> xr.Dataset:
    """Random groups of k examples, left out together: sum of scores against retraining, for every k.

    `pearson`, `spearman` with `spearman_low`, `spearman_high` [estimator, query, window, k] over the groups
    of that size (the interval is NaN with fewer than ten of them); `predicted` [estimator, query, window, k,
    group], `retrained` [query, window, k, group].
    `k` is 1, 4, 16, ... up to a quarter of the examples unless you say. `size` [estimator, query, window, k]
    is the slope of retrained on predicted through the origin: 1 = the sums are right in size too, below 1 =
    they say too much. The rest is as for `lds`, of which this is the small end.

    Cost: k times groups training runs, divided by what batching gains. Errors: as `lds`.
    """
    n = trajectory.workload.n_train
    ks = sizes(n, k)
    check_at_least("groups", groups, 3)
    query, scores, chosen = score(trajectory, query, estimators, windows, removal)
    left_out = random_sets(n, list(ks) * groups, draw_seed(trajectory, seed))  # more groups come behind
    drawn = {"k": list(ks), "seed": list(draw_seed(trajectory, seed))}
    effects = set_effects(trajectory, query, left_out, chosen, strategy, subsets, drawn)
    sums = scores.influence.values.astype(np.float64) @ left_out.T.astype(np.float64)
    retrained, predicted = (
        x.reshape(*x.shape[:-1], groups, len(ks)).swapaxes(-1, -2) for x in (effects, sums)
    )
    dims = ("estimator", "query", "window", "k")
    each = [
        ranked_alike(
            predicted[..., j, :], retrained[..., j, :], resamples, level, draw_seed(trajectory, seed)
        )
        for j in range(len(ks))
    ]
    both = np.broadcast_to(retrained, predicted.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (predicted * both).sum(-1) / (predicted * predicted).sum(-1)
    return xr.Dataset(
        {
            "pearson": (dims, pearson(torch.tensor(predicted), torch.tensor(both)).numpy()),
            "spearman": (dims, np.stack([one["spearman"] for one in each], -1)),
            "spearman_low": (dims, np.stack([one["low"] for one in each], -1)),
            "spearman_high": (dims, np.stack([one["high"] for one in each], -1)),
            "size": (dims, np.where(np.isfinite(slope), slope, np.nan)),
            "predicted": ((*dims, "group"), predicted),
            "retrained": ((*dims[1:], "group"), retrained),
        },
        coords={**scores.coords, "k": list(ks)},
        attrs={"groups": groups, "seed": seed, "resamples": resamples, "level": level},
    )


def sizes(n: int, k: tuple[int, ...] | None) -> tuple[int, ...]:
    """How many of n examples to leave out: as asked for, or 1, 4, 16, ... up to a quarter of them."""
    if k is None:
        return tuple(4**e for e in range(20) if 4**e <= max(1, n // 4))
    if not k or len(set(k)) != len(k) or not all(0 < each < n for each in k):
        raise InputError(
            f"k must be different whole numbers from 1 to {n - 1}, so that some of {n} examples stay; got "
            f"{'+'.join(map(str, k)) or 'none'}"
        )
    return tuple(sorted(k))
