"""What scores say when they are looked at over time, between stages of training, or as suspicions.

    ik.estimate(run, windows="each-epoch") -> patterns    who matters early, late, always, or now and then
    epoch_loss(run) -> stages -> stage_windows            where training changes its pace
    ik.estimate(run, windows=...) -> stage_agreement      whether the stages rank the examples alike
    flipped(workload) -> ... -> detection                 whether wrong labels are found

xarray in and out; dimensions beyond those that a function names (`seed`, `query`, `estimator`) go along.
"""

from influencekit.analysis.patterns import PATTERNS, patterns
from influencekit.analysis.stages import STAGES, epoch_loss, stage_agreement, stage_windows, stages
from influencekit.evaluation.detection import detection, flipped

__all__ = [
    "PATTERNS",
    "STAGES",
    "detection",
    "epoch_loss",
    "flipped",
    "patterns",
    "stage_agreement",
    "stage_windows",
    "stages",
]
