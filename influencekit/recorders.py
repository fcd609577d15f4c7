"""Recorders: which states of a run are stored. Reached by name through the registry."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from influencekit._arguments import whole_number
from influencekit._trajectory.binomial_schedule import binomial_schedule
from influencekit.errors import InputError
from influencekit.interfaces import Recorder

__all__ = ["EveryK", "Full", "Revolve", "Rounded"]


@dataclass(frozen=True)
class Full(Recorder):
    """Every state: nothing is ever replayed.

    Disk: (steps + 1) x (1 + optimizer slots) x parameters numbers. Cost: a sweep reads each state once.

    Example:

        >>> import influencekit as ik
        >>> list(ik.make("recorder", "full").stored_states(0, 3))
        [0, 1, 2, 3]
    """

    def stored_states(self, start: int, stop: int) -> Sequence[int]:
        return range(start, stop + 1)


@dataclass(frozen=True)
class EveryK(Recorder):
    """Every k-th state and the last; those between are replayed (Appendix D of the DIT paper, arXiv
    2502.10793).

    Disk: that of `full` divided by k. Cost: a sweep costs one more training run, and holds up to k states in
    memory, or as many as fit into 4 GiB: then it replays some steps more than once. Errors: `InputError` for
    k below 1.

    Example:

        >>> import influencekit as ik
        >>> ik.make("recorder", "every-k:k=20").stored_states(0, 50)
        [0, 20, 40, 50]
    """

    k: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("every-k: k", self.k, 1)

    def stored_states(self, start: int, stop: int) -> Sequence[int]:
        states = list(range(start, stop + 1, self.k))
        return states if states[-1] == stop else [*states, stop]


@dataclass(frozen=True)
class Revolve(Recorder):
    """At most so many states, on disk and in memory; the rest is replayed by the optimal binomial schedule.

    The first and the last state of the run are two of them; the others lie where a sweep costs least. The
    sweep holds replayed states in the places of those that it has passed, so there are never more than
    `states`, besides the one in hand.

    Cost: with s states, a sweep over T <= (s + r + 1 choose s) - r - 2 steps replays no step more than r
    times, so it costs at most r training runs more. For 64 states r = 1 is enough up to 2,142 steps, r = 2 up
    to 47,901, r = 3 up to 814,380. Errors: `InputError` for fewer than 2 states; the length of the run must
    be known, so a tape refuses it. Source: A. Griewank and A. Walther, Algorithm 799: revolve, ACM Trans.
    Math. Software 26 (2000), 19-45.

    Example:

        >>> import influencekit as ik
        >>> ik.make("recorder", "revolve:states=4").stored_states(0, 10)
        [0, 5, 8, 10]
    """

    states: int = 64
    open_ended: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.states < 2:
            raise InputError(
                f"revolve: states must be at least 2, the first and the last of a run; got {self.states}"
            )

    def stored_states(self, start: int, stop: int) -> Sequence[int]:
        return [start + t for t in binomial_schedule(stop - start, self.states)]

    @property
    def max_states(self) -> int:
        return self.states


@dataclass(frozen=True)
class Rounded(Recorder):
    """Every k-th state with its numbers rounded to `bits` bits after the leading one. Not lossless.

    A number is off by at most 2^-(bits + 1) of itself: 7 bits are the precision of bfloat16, 10 that of half
    precision. Dtype and range stay, so the store reads as any other; the zeros at the end of every number
    compress to nothing. The first and the last state are exact. Scores are those of the rounded states. Cost:
    that of `every-k`. Errors: `InputError` for bits outside of 1 to 51, or k below 1.

    Example:

        >>> import influencekit as ik
        >>> import numpy as np
        >>> ik.make("recorder", "rounded:bits=7").quantize(np.array([1.0, 0.1]))
        array([1.        , 0.10009766])
    """

    bits: int = 7
    k: int = 1
    lossless: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("rounded: bits", self.bits, 1, 51)
        whole_number("rounded: k", self.k, 1)

    def stored_states(self, start: int, stop: int) -> Sequence[int]:
        states = list(range(start, stop + 1, self.k))
        return states if states[-1] == stop else [*states, stop]

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """To the nearest, of two as near to the even one, as IEEE 754 rounds."""
        values = np.ascontiguousarray(values)
        drop = np.finfo(values.dtype).nmant - self.bits
        if drop <= 0:
            return values
        whole = values.view(f"u{values.itemsize}")
        one = whole.dtype.type(1)
        up = (one << (drop - 1)) - one + (whole >> drop & one)
        rounded = ((whole + up) & ~((one << drop) - one)).view(values.dtype)
        return np.where(np.isfinite(values), rounded, values)
