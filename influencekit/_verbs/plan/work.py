"""One piece of work of a plan, with what it costs."""

from typing import NamedTuple

__all__ = ["Work"]


class Work(NamedTuple):
    """`seconds`, the process's peak of `memory` in bytes, bytes on `disk`; None where unknown, or where there
    is nothing. `trainings`: how many models are trained, `together` at once."""

    name: str
    seconds: float
    memory: int | None
    disk: int | None = None
    trainings: int = 0
    together: int = 1
    passes: int = 1
    replayed: int = 0
