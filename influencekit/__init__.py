"""influencekit: which training examples made the model do this, and when.

The public names are loaded on first use, so that importing the package costs nothing.
"""

from influencekit.lazy import lazily

__version__ = "0.1.0"

_HOME = {
    "Adam": "training.optimizers",
    "AdamW": "training.optimizers",
    "Claim": "interfaces",
    "Constant": "training.schedules",
    "Cosine": "training.schedules",
    "DivergedError": "errors",
    "Estimator": "interfaces",
    "Evaluation": "interfaces",
    "Factors": "training.schedules",
    "Group": "training.optimizer",
    "InfluenceKitError": "errors",
    "InputError": "errors",
    "InverseSqrt": "training.schedules",
    "Optimizer": "training.optimizer",
    "Query": "interfaces",
    "Recorder": "interfaces",
    "SGD": "training.optimizers",
    "Schedule": "training.schedules",
    "StoreError": "errors",
    "Table": "interfaces",
    "Tape": "tape",
    "Trajectory": "trajectory.trajectory",
    "Window": "windows",
    "Workload": "training.workload",
    "compare": "verbs.compare",
    "contributions": "verbs.contributions",
    "estimate": "verbs.estimate",
    "evaluate": "evaluation",
    "make": "registry",
    "open": "verbs.open",
    "record": "verbs.record",
    "remove": "verbs.remove",
    "spec": "registry",
    "trust": "verbs.trust",
    "verify_top": "verbs.remove",
    "sum_over_windows": "verbs.contributions",
}

__all__ = sorted(_HOME)
__getattr__ = lazily(__name__, _HOME)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
