"""Progress without drawing: long loops announce what they have done, and a listener may draw it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

__all__ = ["announce", "listen", "track"]

T = TypeVar("T")
Listener = Callable[[str, int, int], None]

_listener: ContextVar[Listener | None] = ContextVar("influencekit_progress", default=None)


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Within the block, call `listener(what, done, total)` as a tracked loop begins (done = 0) and after
    every item.

    Example:

        >>> from influencekit.progress import listen, track
        >>> with listen(lambda what, done, total: print(what, done, total)):
        ...     for item in track("ab", "letters", 2):
        ...         pass
        letters 0 2
        letters 1 2
        letters 2 2
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def listening() -> bool:
    """Whether somebody listens here."""
    return _listener.get() is not None


def announce(what: str, done: int, total: int) -> None:
    """Tell the listener, if any, that the loop `what` has done so many: for work that is no loop of ours.

    Example:

        >>> from influencekit.progress import announce, listen
        >>> with listen(lambda what, done, total: print(what, done, total)):
        ...     announce("workers", 3, 8)
        workers 3 8
    """
    if listener := _listener.get():
        listener(what, done, total)


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield `items` unchanged, announcing the start and each finished one to the listener, if any.

    Without a listener it is the plain loop.

    Example:

        >>> from influencekit.progress import track
        >>> [2 * number for number in track(range(3), "doubling", 3)]
        [0, 2, 4]
    """
    listener = _listener.get()
    if listener is None:
        yield from items
        return
    done = 0
    listener(what, done, total)
    try:
        for item in items:
            yield item
            done += 1  # only now: the last item may be the one at which the loop is left
            listener(what, done, total)
    finally:
        if done != total:  # a loop that was left early is over as well
            listener(what, total, total)
