"""Hooks that listen to one model or optimizer, and not to its copies."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

__all__ = ["Hook"]


class Hook:
    """Calls `act` with what a hook of torch is given. Its copies, deep or pickled, do nothing.

    So a model can be saved and copied while a tape listens to it. A pickled copy is a method of the standard
    library that takes anything and returns None: it loads where this package is not installed.
    """

    def __init__(self, act: Callable[..., None]) -> None:
        self._act = act

    def __call__(self, *event: Any) -> None:
        self._act(*event)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")
