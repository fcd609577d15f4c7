"""Which states a sweep reads or replays at once, and what replaying costs: numbers, without a run."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from influencekit._trajectory.binomial_schedule import evaluations

__all__ = ["Block", "Limits", "blocks_of", "replayed"]

_BLOCK = 64 << 20  # bytes of states that a sweep reads at once
_HELD = 4 << 30  # bytes of states that it holds at once when it must replay them


class Block(NamedTuple):
    """The states low ... high - 1, and how many `places` for states there are meanwhile.

    One more state is in hand, so a list has up to places + 1 of them.
    """

    low: int
    high: int
    places: int


class Limits(NamedTuple):
    """How large a state is, how many share a chunk of the store, and how many a sweep may hold (None: as many
    as fit the memory set aside)."""

    state: int
    chunk: int
    max_states: int | None


def blocks_of(stored: Sequence[int] | np.ndarray, start: int, stop: int, limits: Limits) -> Iterator[Block]:
    """What to read or replay at once of the states start ... stop - 1, in ascending order.

    `stored`: the numbers of the stored states, ascending. Where they are close, a block is what is read at
    once; where they are far apart, it is what lies between two of them.
    """
    stored = np.asarray(stored)

    def below(t: int) -> int:
        return int(np.searchsorted(stored, t, side="right")) - 1

    dense = len(stored) == stored[-1] - stored[0] + 1
    chunk = limits.chunk if dense else 1
    many = max(1, min(max(128, chunk), _BLOCK // limits.state))
    whole = many // chunk * chunk  # a chunk is read once, where one fits
    memory = max(2, many, _HELD // limits.state) - 1
    first, low = below(start), start
    while low < stop:
        at = below(low)
        # stored states that the sweep has still to come to have places of their own
        places = memory if limits.max_states is None else max(1, limits.max_states - (at - first))
        far = min(stop, low + min(whole - at % chunk if whole else many, places + 1))
        high = far if far == stop else int(stored[below(far)])
        if high <= low:
            high = min(stop, int(stored[at + 1]) if at + 1 < len(stored) else stop)
        yield Block(low, high, places)
        low = high


def replayed(stored: Sequence[int] | np.ndarray, blocks: Sequence[Block], limits: Limits) -> int:
    """How many training steps a sweep over these blocks repeats.

    A stretch is trained one step further where that meets the next stored state, with which it is compared;
    not where the recorder limits the states that are held.
    """
    stored = np.asarray(stored)
    known, total = set(stored.tolist()), 0
    compared = limits.max_states is None

    def between(low: int, high: int) -> int:
        """Steps to the states low + 1 ... high - 1; by some of them stored states are compared."""
        trained = sum(t not in known for t in range(low + 1, high))
        met = sum(t in known and t - 1 not in known for t in range(low + 1, high))
        return trained + (met if compared else 0)

    for low, high, places in blocks:
        below = int(stored[np.searchsorted(stored, low, side="right") - 1])
        if high - low > places + 1:
            total += evaluations(high - low, places) + between(below, low + 1)
        else:
            total += between(below, high)
        total += compared and high in known and high - 1 not in known
    return int(total)
