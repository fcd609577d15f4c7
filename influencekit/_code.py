"""A script of the user's that is run for what it defines: nothing in it may train meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from influencekit.errors import InputError

__all__ = ["refuse_training", "running"]

_RUNNING: ContextVar[str | None] = ContextVar("influencekit_code", default=None)


@contextmanager
def running(instead: str) -> Iterator[None]:
    """Inside, a tape or `record` that begins is refused. `instead`: what is wrong and what to write."""
    token = _RUNNING.set(instead)
    try:
        yield
    finally:
        _RUNNING.reset(token)


def refuse_training() -> None:
    """Errors: a script is being run for what it defines, and trains."""
    if instead := _RUNNING.get():
        raise InputError(instead)
