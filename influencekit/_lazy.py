"""Modules whose names are loaded on first use (PEP 562), so that importing or listing them costs nothing."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazily"]


def lazily(module: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module with these names: {name: the module of influencekit that has it}."""

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(import_module(f"influencekit.{homes[name]}"), name)

    return load
