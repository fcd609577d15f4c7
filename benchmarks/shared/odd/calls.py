"""Everything that may be called."""

from __future__ import annotations

from benchmarks.shared.odd.cleaning import CLEANING
from benchmarks.shared.odd.drawing import Callee
from benchmarks.shared.odd.evaluation import EVALUATIONS
from benchmarks.shared.odd.metrics import METRICS
from benchmarks.shared.odd.optimizers import OPTIMIZERS
from benchmarks.shared.odd.options import OPTIONS
from benchmarks.shared.odd.plots import PLOTS
from benchmarks.shared.odd.queries import QUERIES
from benchmarks.shared.odd.registry import REGISTRY
from benchmarks.shared.odd.tapes import TAPES
from benchmarks.shared.odd.verbs import VERBS
from benchmarks.shared.odd.windows import WINDOWS
from benchmarks.shared.odd.workloads import WORKLOADS

__all__ = ["CALLEES"]

CALLEES: tuple[Callee, ...] = (
    *OPTIMIZERS, *WINDOWS, *OPTIONS, *QUERIES, *REGISTRY, *WORKLOADS, *VERBS, *CLEANING, *EVALUATIONS,
    *METRICS, *PLOTS, *TAPES,
)  # fmt: skip
