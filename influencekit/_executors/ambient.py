"""The session of the verb that runs, for whoever retrains below it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["active", "session"]

_session: ContextVar[Any] = ContextVar("influencekit_executor", default=None)


def session() -> Any:
    """What retraining is handed to (`session.Session`); None: it is done here."""
    return _session.get()


@contextmanager
def active(one: Any) -> Iterator[None]:
    """Within the block, retraining is handed to this session; None: to nobody."""
    token = _session.set(one)
    try:
        yield
    finally:
        _session.reset(token)
