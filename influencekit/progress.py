"""Progress without a progress bar: long loops announce what they have done, whoever listens may draw it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

__all__ = ["listen", "track"]

T = TypeVar("T")
Listener = Callable[[str, int, int], None]

_listener: ContextVar[Listener | None] = ContextVar("influencekit_progress", default=None)


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Within the block, call `listener(what, done, total)` for every item that a tracked loop finishes."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield `items` unchanged, announcing each finished one to the listener, if there is one."""
    listener = _listener.get()
    for done, item in enumerate(items, start=1):
        yield item
        if listener is not None:
            listener(what, done, total)
