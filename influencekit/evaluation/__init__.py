"""Evaluations that users of the field expect, beside the four metrics: what scores are worth, by retraining.

    LDS            do sums of scores rank random subsets as retraining does? (linear datamodeling score)
    LeaveKOut      the same for random groups of k examples, by k
    Brittleness    what removing the k most helpful, or most harmful, examples really does
    QLD            how much worse the query is without the most helpful examples than without random ones
    MislabelAUC    plant wrong labels, train, and see whether scores find them
    TaylorSlope    is a score the derivative of the run? the slope of first order's remainder
    evaluate       several of them, by name or as objects, as `influencekit compare --evaluate` does

Each is a frozen dataclass with `run`, `table` and `plot`, one in a file; plugins add others by the entry
point `influencekit.evaluations`. xarray in and out, dims [estimator, query, window, ...]; everything random
is seeded, with other draws for every seed of a workload. Any estimator can be evaluated, registered or of
one's own, `loo` as well.
"""

from influencekit.evaluation.brittleness import Brittleness
from influencekit.evaluation.detection import detection, flipped
from influencekit.evaluation.lds import LDS
from influencekit.evaluation.leave_k_out import LeaveKOut
from influencekit.evaluation.mislabel import MislabelAUC
from influencekit.evaluation.qld import QLD
from influencekit.evaluation.run import evaluate, evaluation_of, over_seeds, summary
from influencekit.evaluation.taylor import TaylorSlope

__all__ = [
    "LDS",
    "QLD",
    "Brittleness",
    "LeaveKOut",
    "MislabelAUC",
    "TaylorSlope",
    "detection",
    "evaluate",
    "evaluation_of",
    "flipped",
    "over_seeds",
    "summary",
]
