"""Libraries that are asked for only when they are used."""

from importlib import import_module
from types import ModuleType

from influencekit import InputError

__all__ = ["need"]


def need(estimator: str, module: str, install: str) -> ModuleType:
    """A module of an optional library. Errors: one line that says how to install it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as reason:
        missing = (reason.name or module).partition(".")[0]
        raise InputError(f"{estimator} needs {missing}, which is not installed; {install}") from reason
