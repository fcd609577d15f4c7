"""The tables of names: kinds and their entry-point groups, what is built in, what our own plugins bring."""

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["BUILTINS", "KINDS", "PACKAGES"]

KINDS: Mapping[str, str] = MappingProxyType(
    {  # kind: entry-point group
        "estimator": "influencekit.estimators",
        "query": "influencekit.queries",
        "recorder": "influencekit.recorders",
        "workload": "influencekit.workloads",
        "evaluation": "influencekit.evaluations",
        "average": "influencekit.averages",
    }
)
"""{kind: the entry-point group in which others add to it}."""

BUILTINS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "estimator": {
            "dit": "influencekit.estimators.dit:DIT",
            "sgd-influence": "influencekit.estimators.sgd_influence:SGDInfluence",
            "if": "influencekit.estimators.influence_function:InfluenceFunction",
            "loo": "influencekit.estimators.loo:LOO",
            "expected-loo": "influencekit.estimators.expected_loo:ExpectedLOO",
            "final-loss": "influencekit.estimators.final_loss:FinalLoss",
            "aum": "influencekit.estimators.aum:AUM",
            "out-of-fold": "influencekit.estimators.out_of_fold:OutOfFold",
        },
        "query": {
            "test-loss": "influencekit.queries:TestLoss",
            "test-losses": "influencekit.queries:TestLosses",
            "test-parts": "influencekit.queries:TestParts",
            "prediction": "influencekit.queries:Prediction",
            "parameter": "influencekit.queries:Parameter",
            "vector": "influencekit.queries:FixedVector",
            "feature-importance": "influencekit.queries:FeatureImportance",
            "alignment": "influencekit.queries:GradientAlignment",
        },
        "recorder": {
            "full": "influencekit.recorders:Full",
            "every-k": "influencekit.recorders:EveryK",
            "revolve": "influencekit.recorders:Revolve",
            "rounded": "influencekit.recorders:Rounded",
        },
        "workload": {
            "mnist-1v7-lr": "influencekit.workloads.mnist:mnist_1v7_lr",
            "mnist-1v7-dnn": "influencekit.workloads.mnist:mnist_1v7_dnn",
            "mnist-1v7-cnn": "influencekit.workloads.mnist:mnist_1v7_cnn",
        },
        "evaluation": {
            "lds": "influencekit.evaluation.lds:LDS",
            "leave-k-out": "influencekit.evaluation.leave_k_out:LeaveKOut",
            "brittleness": "influencekit.evaluation.brittleness:Brittleness",
            "qld": "influencekit.evaluation.qld:QLD",
            "mislabel-auc": "influencekit.evaluation.mislabel:MislabelAUC",
            "taylor": "influencekit.evaluation.taylor:TaylorSlope",
        },
        "average": {
            "ema": "influencekit.averages:EMA",
            "swa": "influencekit.averages:SWA",
            "after": "influencekit.averages:After",
            "reloaded": "influencekit.averages:Reloaded",
            "last": "influencekit.averages:Last",
        },
    }
)
"""{kind: {name: module:attribute}} of what influencekit brings itself."""


# What our own plugins bring, so that a name whose plugin is not installed says what to install.
PACKAGES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {  # package: kind: names
        "influencekit-paper": {
            "command": "reproduce",
            "workload": "kmnist-lr kmnist-dnn kmnist-cnn emnist-ab-lr emnist-ab-dnn emnist-ab-cnn "
            "adult-lr adult-dnn 20news-lr 20news-dnn",
        },
        "influencekit-baselines": {
            "estimator": "tracin shapley grad-dot grad-cos self-influence grad-norm el2n forgetting "
            "random trak ekfac",
        },
        "influencekit-dvemb": {"estimator": "dvemb tsloo"},
        "influencekit-smooth": {"estimator": "smooth"},
    }
)
"""{package: {kind: names}} of what our own plugins bring, installed or not."""
