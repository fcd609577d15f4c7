"""Modules whose names are loaded on first use (PEP 562), so that importing or listing them costs nothing."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from threading import RLock
from typing import Any

__all__ = ["LOADING", "lazily", "loaded"]


def lazily(module: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module with these names: {name: the module of influencekit that has it}."""

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(loaded(f"influencekit.{homes[name]}"), name)

    return load


LOADING = RLock()


def loaded(module: str) -> Any:
    """A module, by one thread at a time: torch imports itself in circles, of which two threads that import
    different parts of it see unfinished ones."""
    there = sys.modules.get(module)
    if there is not None and not getattr(there.__spec__, "_initializing", False):
        return there
    with LOADING:
        return import_module(module)
