"""The conformance suite: the laws of estimators, queries, recorders and evaluations, built-in or not.

    from influencekit.testing import parametrize_with_checks

    @parametrize_with_checks([MyEstimator(), "dit:curvature=fisher", "every-k:k=3"])
    def test_conformance(subject, check):
        check(subject)

`check_estimator`, `check_query`, `check_recorder` and `check_evaluation` run all laws of one object without
pytest. The oracles that they compare with are public: `tiny_workload`, `unrolled_gradient`, `retrained`.
"""

from influencekit.testing.oracle import (
    plain_run,
    retrained,
    tiny_workload,
    torch_optimizer,
    unrolled_gradient,
    weighted_run,
    window_weights,
)
from influencekit.testing.parts import effect_by_part, gradient_by_part, parted_workload
from influencekit.testing.setting import OPTIMIZERS, recorded
from influencekit.testing.suite import (
    check_estimator,
    check_evaluation,
    check_query,
    check_recorder,
    laws,
    parametrize_with_checks,
)
from influencekit.testing.taped import taped

__all__ = [
    "OPTIMIZERS",
    "check_estimator",
    "check_evaluation",
    "check_query",
    "check_recorder",
    "effect_by_part",
    "gradient_by_part",
    "laws",
    "parametrize_with_checks",
    "parted_workload",
    "plain_run",
    "recorded",
    "retrained",
    "taped",
    "tiny_workload",
    "torch_optimizer",
    "unrolled_gradient",
    "weighted_run",
    "window_weights",
]
