from collections.abc import Sequence
from dataclasses import dataclass

from influencekit.interfaces import Recorder

__all__ = ["Full"]


@dataclass(frozen=True)
class Full(Recorder):
    """Every state: nothing is ever replayed. Disk: (steps + 1) x (1 + optimizer slots) x parameters."""

    def kept(self, start: int, stop: int) -> Sequence[int]:
        return range(start, stop + 1)
