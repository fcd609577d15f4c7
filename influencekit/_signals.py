"""Signals that end a program wait while something is finished that must not be left half done."""

from __future__ import annotations

# the wrappers in `signal` make enums of everything, which takes ten times as long
import _signal  # type: ignore[import-not-found]
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["ENDING", "deferred"]

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def deferred() -> Iterator[None]:
    """Within the block Ctrl-C, SIGTERM and SIGHUP only note that they came; after it they take effect.

    The handlers that were there are put back first, and get what came. Outside of the main thread, where no
    handler runs, it does nothing. `@deferred()` puts a function into such a block. Cost: some microseconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before: dict[int, Any] = {}
    try:
        for number in ENDING:
            handler = _signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):  # None: not of Python's
                before[number] = handler
                _signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        try:
            _each(_signal.signal, list(before.items()))
        finally:
            _each(signal.raise_signal, [(number,) for number in dict.fromkeys(came)])


def _each(call: Callable[..., object], arguments: list[Any]) -> None:
    """`call` with each of them, also where one raises: a handler may, as soon as it is back."""
    if arguments:
        try:
            call(*arguments[0])
        finally:
            _each(call, arguments[1:])
