"""The linear datamodeling score: do sums of scores rank random subsets as retraining does?"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from influencekit.effects.retrain import Strategy
from influencekit.errors import InputError
from influencekit.evaluation import bootstrap
from influencekit.evaluation.retraining import check_at_least, draw_seed, random_sets, set_effects
from influencekit.evaluation.scoring import Estimators, score
from influencekit.interfaces import Query
from influencekit.metrics import spearman
from influencekit.trajectory.trajectory import Trajectory
from influencekit.verbs.results import Windows
from influencekit.windows import Removal

__all__ = ["lds", "left_out_size", "ranked_alike"]


def lds(
    trajectory: Trajectory,
    query: Query | str = "test-loss",
    estimators: Estimators = ("dit",),
    windows: Windows = None,
    removal: Removal = "global",
    *,
    m: int = 100,
    fraction: float = 0.5,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
    subsets: str | Path | None = None,
    strategy: Strategy = "auto",
) -> xr.Dataset:
    """Linear datamodeling score `lds` [estimator, query, window], in [-1, 1]; 1 = ranked as retraining does.

        LDS = Spearman over subsets S_1 ... S_m of ( sum of the scores of those left out of S_i,
                                                     q(run on S_i) - q(run) )

    Each S_i holds the share `fraction` of the examples, drawn at random; the run is trained again on it, on
    the recorded batches with their divisors, under each window's own removal. Summing over those left out,
    not over S_i, is the sign of this house and ranks alike. `estimators`: as for `score`; `seed` draws the
    subsets, other ones for every seed of a workload.

    `lds_low` and `lds_high` are the bootstrap interval (BCa) at `level` from so many `resamples` of the
    subsets, NaN with fewer than ten of them; `mean`, `mean_low`, `mean_high` [estimator, window] are of the
    mean over queries, each resample of all queries at once. Also `predicted` [estimator, query, window,
    subset], `retrained` [query, window, subset], `left_out` [subset, train], and of that mean `bootstrap`
    [resample, estimator, window] and, without each subset, `jackknife` [subset, estimator, window]. NaN where
    either side is constant.

    `subsets` names a folder for the retrained models: a killed call continues, another query costs no
    retraining, a larger m adds to what is there. Cost: m training runs, divided by what batching gains; with
    a folder, m times the parameters on disk. Source: Park et al. 2023 (TRAK), arXiv 2303.14186; Ilyas et al.
    2022. Errors: scores that leave examples out, subsets that leave none or all out, a folder of another run.
    """
    n = trajectory.workload.n_train
    size = left_out_size(n, fraction)
    check_at_least("m", m, 3)
    query, scores, chosen = score(trajectory, query, estimators, windows, removal)
    left_out = random_sets(n, [size] * m, draw_seed(trajectory, seed))
    drawn = {"fraction": fraction, "seed": list(draw_seed(trajectory, seed))}
    retrained = set_effects(trajectory, query, left_out, chosen, strategy, subsets, drawn)
    predicted = scores.influence.values.astype(np.float64) @ left_out.T.astype(np.float64)
    dims = ("estimator", "query", "window")
    found = ranked_alike(predicted, retrained, resamples, level, draw_seed(trajectory, seed))
    return xr.Dataset(
        {
            "lds": (dims, found["spearman"]),
            "lds_low": (dims, found["low"]),
            "lds_high": (dims, found["high"]),
            "mean": (("estimator", "window"), found["mean"]),
            "mean_low": (("estimator", "window"), found["mean_low"]),
            "mean_high": (("estimator", "window"), found["mean_high"]),
            "bootstrap": (("resample", "estimator", "window"), found["bootstrap"]),
            "jackknife": (("subset", "estimator", "window"), found["jackknife"]),
            "predicted": ((*dims, "subset"), predicted),
            "retrained": (("query", "window", "subset"), retrained),
            "left_out": (("subset", "train"), left_out),
        },
        coords=scores.coords,
        attrs={"m": m, "fraction": fraction, "seed": seed, "resamples": resamples, "level": level},
    )


def left_out_size(n: int, fraction: float) -> int:
    """How many of n examples are not in a subset of this share. Errors: none of them, or all."""
    size = n - round(fraction * n) if 0 < fraction < 1 else 0
    if not 0 < size < n:
        raise InputError(
            f"fraction must leave some of {n} examples in a subset and some out of it, got {fraction:g}"
        )
    return size


def ranked_alike(
    predicted: np.ndarray, retrained: np.ndarray, resamples: int, level: float, seed: tuple[int, ...]
) -> dict[str, Any]:
    """Spearman of predicted [estimator, query, window, set] with retrained [query, window, set], its
    interval, the same of the mean over queries, and that mean in every resample, `bootstrap`, and without
    each set, `jackknife`."""
    check_at_least("resamples", resamples, 1)
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, got {level}")
    both = np.broadcast_to(retrained, predicted.shape)
    rho = spearman(torch.tensor(predicted), torch.tensor(both)).numpy()
    n = predicted.shape[-1]
    counts = np.concatenate([bootstrap.drawn(n, resamples, seed), bootstrap.without_each(n)])
    found = np.empty((len(counts), *rho.shape))
    for q, w in np.ndindex(*retrained.shape[:2]):
        found[:, :, q, w] = bootstrap.spearman(predicted[:, q, w], retrained[q, w], counts)
    low, high = bootstrap.interval(rho, found[:resamples], found[resamples:], level, n)
    mean, each = _over_queries(rho, 1), _over_queries(found, 2)
    mean_low, mean_high = bootstrap.interval(mean, each[:resamples], each[resamples:], level, n)
    return {
        "spearman": rho, "low": low, "high": high, "mean": mean, "mean_low": mean_low,
        "mean_high": mean_high, "bootstrap": each[:resamples], "jackknife": each[resamples:],
    }  # fmt: skip


def _over_queries(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean over queries, undefined ones left out; NaN where all are."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    total = np.where(known, values, 0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
