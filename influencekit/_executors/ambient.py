"""The session of the verb that runs, for whoever retrains below it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from influencekit._executors.session import Session

__all__ = ["active", "session"]

_session: ContextVar[Session | None] = ContextVar("influencekit_executor", default=None)


def session() -> Session | None:
    """What retraining is handed to; None: it is done here."""
    return _session.get()


@contextmanager
def active(one: Session | None) -> Iterator[None]:
    """Within the block, retraining is handed to this session."""
    token = _session.set(one)
    try:
        yield
    finally:
        _session.reset(token)
