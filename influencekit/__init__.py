"""influencekit: which training examples made the model do this, and when.

The public names are loaded on first use, so that importing the package costs nothing.
"""

from influencekit._lazy import lazily

__version__ = "0.4.0"

_HOME = {
    "Adadelta": "_training.optimizers",
    "Adafactor": "_training.optimizers",
    "Adagrad": "_training.optimizers",
    "Adam": "_training.optimizers",
    "AdamW": "_training.optimizers",
    "Adamax": "_training.optimizers",
    "Average": "interfaces",
    "Claim": "interfaces",
    "Constant": "_training.schedules",
    "Cosine": "_training.schedules",
    "DivergedError": "errors",
    "Estimator": "interfaces",
    "Evaluation": "interfaces",
    "Factors": "_training.schedules",
    "Group": "_training.optimizer",
    "InfluenceKitError": "errors",
    "InputError": "errors",
    "InverseSqrt": "_training.schedules",
    "Muon": "_training.optimizers",
    "NAdam": "_training.optimizers",
    "Optimizer": "_training.optimizer",
    "Parts": "_training.loss_by_part",
    "Query": "interfaces",
    "RAdam": "_training.optimizers",
    "RMSprop": "_training.optimizers",
    "Recorder": "interfaces",
    "Report": "_report",
    "SGD": "_training.optimizers",
    "Schedule": "_training.schedules",
    "StoreError": "errors",
    "Table": "interfaces",
    "Tape": "_tape",
    "Trajectory": "_trajectory.trajectory",
    "Window": "windows",
    "Workload": "_training.workload",
    "Workers": "_executors.session",
    "ceiling": "_verbs.ceiling",
    "compare": "_verbs.compare",
    "contributions": "_verbs.contributions",
    "curate": "_verbs.curate",
    "estimate": "_verbs.estimate",
    "evaluate": "evaluation",
    "make": "registry",
    "open": "_verbs.open",
    "plan": "_verbs.plan",
    "record": "_verbs.record",
    "remove": "_verbs.remove",
    "report": "_report",
    "spec": "registry",
    "suspects": "_verbs.suspects",
    "sum_over_windows": "_verbs.contributions",
    "trust": "_verbs.trust",
    "verify": "_verbs.verify",
    "verify_top": "_verbs.verify_top",
}

__all__ = sorted(_HOME)
__getattr__ = lazily(__name__, _HOME)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
