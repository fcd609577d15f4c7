from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from influencekit.checkpoints import spread
from influencekit.errors import InputError
from influencekit.interfaces import Recorder

__all__ = ["Revolve"]


@dataclass(frozen=True)
class Revolve(Recorder):
    """At most so many states, on disk and in memory; the rest is replayed by the optimal binomial schedule.

    The first and the last state of the run are two of them; the others lie where a sweep costs least. The
    sweep holds replayed states in the places of those that it has passed, so there are never more than
    `states`, besides the one in hand. With s states, a sweep over T <= (s + r + 1 choose s) - r - 2 steps
    replays no step more than r times: it costs at most r training runs more. For 64 states r = 1 is enough
    up to 2,142 steps, r = 2 up to 47,901, r = 3 up to 814,380. The length of the run must be known, so a tape
    cannot use it. Source: A. Griewank and A. Walther, Algorithm 799: revolve, ACM Trans. Math. Software 26
    (2000), 19-45.
    """

    states: int = 64
    open_ended: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.states < 2:
            raise InputError(
                f"revolve: states must be at least 2, the first and the last of a run; got {self.states}"
            )

    def kept(self, start: int, stop: int) -> Sequence[int]:
        return [start + t for t in spread(stop - start, self.states)]

    @property
    def held(self) -> int:
        return self.states
