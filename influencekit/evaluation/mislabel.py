"""Mislabel AUC: plant wrong labels, train on them, and see whether scores find them."""

import numpy as np
import torch
import xarray as xr

from influencekit.direction import better_of, written
from influencekit.evaluation.detection import detection, flipped
from influencekit.evaluation.scoring import Estimators, estimators_of, score
from influencekit.interfaces import Query
from influencekit.trajectory.trajectory import Trajectory
from influencekit.verbs.record import record
from influencekit.verbs.results import Windows
from influencekit.windows import Removal

__all__ = ["mislabel_auc"]


def mislabel_auc(
    trajectory: Trajectory,
    query: Query | str = "test-loss",
    estimators: Estimators = ("dit",),
    windows: Windows = None,
    removal: Removal = "global",
    *,
    share: float = 0.1,
    seed: int = 0,
) -> xr.Dataset:
    """Flip this share of the training labels, train and score anew: what `analysis.detection` says of it.

    `auc` [estimator, query, window], the probability that a flipped example has a more harmful score than
    another one (a lower score of a loss, a higher one of a margin), chance is .5; `average_precision`,
    `found`, the curves `precision` and `recall` [.., k]; `flipped` [train]; `accuracy` of the run on flipped
    labels. The control, which costs nothing: `control_auc` and `control_recall` [k] of ranking by the loss of
    each training example at the end of that run, largest first. Sensible for queries that say which way is
    better; of others it looks at those whose removal lowers the query. `seed` draws the flips, others for
    every seed of a workload.

    Cost: a training run, its tracing, and the estimators anew. Errors: labels that are no classes, a taped
    run, scores that are ready (they are of another run).
    """
    methods = list(estimators_of(estimators).values())
    problem, mask = flipped(trajectory.workload, share, seed + trajectory.workload.seed)
    run = record(problem)
    query, scores, _ = score(run, query, methods, windows, removal)
    better = written(better_of(query))
    found = detection(scores.influence.assign_attrs(better), mask)
    rows = torch.arange(problem.n_train, device=problem.device).split(1024)
    with torch.no_grad():
        parts = [problem.losses(run.final.theta, problem.examples(r)).cpu().numpy() for r in rows]
    control = detection(xr.DataArray(-np.concatenate(parts), dims="train"), mask)
    return found.assign(
        flipped=("train", mask),
        accuracy=float(run.attrs["accuracy"]),
        control_auc=control.auc,
        control_recall=control.recall,
    ).assign_attrs(share=share, seed=seed, corrupted=int(mask.sum()), **better)
