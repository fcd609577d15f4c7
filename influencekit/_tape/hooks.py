"""Hooks that listen to one model or optimizer, and not to its copies."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

__all__ = ["Hook"]


class Hook:
    """Calls `act` with what a hook of torch is given, and `copied` when it is copied, as the model is.

    Copies, deep or pickled, do nothing, so a model can be saved and copied while a tape listens to it. A
    pickled copy is a method of the standard library that takes anything and returns None: it loads where
    this package is not installed.
    """

    def __init__(self, act: Callable[..., None], copied: Callable[[], None] = lambda: None) -> None:
        self._act, self._copied = act, copied

    def __call__(self, *event: Any) -> None:
        self._act(*event)

    def __reduce__(self) -> tuple[Any, ...]:
        self._copied()
        return getattr, (nullcontext(), "__exit__")
