"""Evaluations that users of the field expect, beside the four metrics: what scores are worth, by retraining.

    lds              do sums of scores rank random subsets as retraining does? (linear datamodeling score)
    leave_k_out      the same for random groups of k examples, by k
    brittleness      what removing the k most helpful, or most harmful, examples really does
    mislabel_auc     plant wrong labels, train, and see whether scores find them
    taylor           is a score the derivative of the run? the slope of first order's remainder
    evaluate         several of them by name, as `influencekit compare --evaluate` does

xarray in and out, dims [estimator, query, window, ...]; everything random is seeded, with other draws for
every seed of a workload. Any estimator can be evaluated, registered or of one's own, `loo` as well.
"""

from influencekit.evaluation.brittleness import brittleness
from influencekit.evaluation.detection import detection, flipped
from influencekit.evaluation.lds import lds
from influencekit.evaluation.leave_k_out import leave_k_out
from influencekit.evaluation.mislabel import mislabel_auc
from influencekit.evaluation.run import EVALUATIONS, evaluate, over_seeds
from influencekit.evaluation.scoring import score
from influencekit.evaluation.taylor import taylor

__all__ = [
    "EVALUATIONS",
    "brittleness",
    "detection",
    "evaluate",
    "flipped",
    "lds",
    "leave_k_out",
    "mislabel_auc",
    "over_seeds",
    "score",
    "taylor",
]
