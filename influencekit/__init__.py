"""influencekit: which training examples made the model do this, and when.

The public names are loaded on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Adam": "optimizers",
    "AdamW": "optimizers",
    "Claim": "interfaces",
    "Constant": "schedules",
    "Cosine": "schedules",
    "DivergedError": "errors",
    "Estimator": "interfaces",
    "Factors": "schedules",
    "Group": "optimizers",
    "InfluenceKitError": "errors",
    "InputError": "errors",
    "InverseSqrt": "schedules",
    "Optimizer": "optimizers",
    "Query": "interfaces",
    "Recorder": "interfaces",
    "SGD": "optimizers",
    "Schedule": "schedules",
    "StoreError": "errors",
    "Tape": "tape",
    "Trajectory": "trajectory",
    "Window": "windows",
    "Workload": "workload",
    "compare": "pipeline",
    "contributions": "occurrences",
    "estimate": "pipeline",
    "make": "registry",
    "open": "pipeline",
    "record": "pipeline",
    "remove": "screen",
    "spec": "registry",
    "trust": "reliability",
    "verify_top": "screen",
    "windowed": "occurrences",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'influencekit' has no attribute {name!r}")
    return getattr(import_module(f"influencekit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
