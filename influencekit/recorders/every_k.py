from collections.abc import Sequence
from dataclasses import dataclass

from influencekit.errors import InputError
from influencekit.interfaces import Recorder

__all__ = ["EveryK"]


@dataclass(frozen=True)
class EveryK(Recorder):
    """Every k-th state and the last; those between are replayed (Appendix D of the DIT paper).

    Disk shrinks by k; a sweep costs one more training run, and holds up to k states in memory, or as many as
    fit into 4 GiB: then it replays some steps more than once.
    """

    k: int = 20

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"every-k: k must be at least 1, got {self.k}")

    def kept(self, start: int, stop: int) -> Sequence[int]:
        states = list(range(start, stop + 1, self.k))
        return states if states[-1] == stop else [*states, stop]
