"""Where to keep states so that a run can be gone through backwards with few of them: binomial checkpointing.

To go through `length` states backwards, of which the first is held in one of `slots` places, takes

    t(l, s) = r l - B(s + 1, r - 1)  steps,   B(s, r) = (s + r choose s),   B(s, r - 1) < l <= B(s, r)

and no schedule takes fewer; besides the slots there is one state in hand. Source: A. Griewank and A. Walther,
Algorithm 799: revolve, ACM Transactions on Mathematical Software 26 (2000), 19-45.
"""

from collections.abc import Callable, Iterator
from math import comb
from typing import TypeVar

__all__ = ["backwards", "evaluations", "reach", "binomial_schedule"]

S = TypeVar("S")


def reach(slots: int, times: int) -> int:
    """B(s, r): the most states that can be gone through when none is computed more than r times."""
    return comb(slots + times, slots) if times >= 0 else 0


def evaluations(length: int, slots: int) -> int:
    """t(l, s): steps that going backwards through `length` states takes, the first of them held."""
    times = _times(length, slots)
    return times * length - reach(slots + 1, times - 1)


def backwards(first: S, length: int, slots: int, advance: Callable[[S], S]) -> Iterator[list[S]]:
    """`length` states from `first` on, in lists of consecutive ones, the last list first.

    At no time more than `slots` of them and one in hand are held, if whoever takes a list lets go of it
    before asking for the next; `first` has one of the slots. `advance` is called t(length, slots) times.
    Lists are as long as that allows: the more states are read at once, the faster.
    """
    waiting = [(first, length, slots)]
    del first
    while waiting:
        state, length, slots = waiting.pop()
        while length > slots + 1:
            ahead = _split(length, slots)
            waiting.append((state, ahead, slots))
            for _ in range(ahead):
                state = advance(state)
            length, slots = length - ahead, slots - 1
        yield _following(state, length, advance)


def binomial_schedule(steps: int, states: int) -> list[int]:
    """Which `states` of the states 0 ... steps to keep in a run, so that going backwards costs the least.

    0 and `steps` are among them. When a sweep begins, the last state is in hand and its place is free; from
    the i-th kept state to the next it has states - i places. t(., s) is convex with slopes 1, 2, ..., so a
    choice is best if all stretches end on the same slope. Of those choices this one makes every stretch
    smaller than the largest of its slope by the same number, which gives long lists.
    """
    if steps < states:
        return list(range(steps + 1))
    places = range(states, 1, -1)
    times = 0
    while sum(reach(s, times) for s in places) < steps:
        times += 1

    def stretches(less: int) -> list[int]:
        return [max(reach(s, times - 1), reach(s, times) - less) for s in places]

    low, high = 0, reach(states, times)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if sum(stretches(middle)) <= steps else (middle + 1, high)
    lengths = stretches(low)
    rest, kept = steps - sum(lengths), [0]
    for s, length in zip(places, lengths, strict=True):
        more = min(rest, 1) if length < reach(s, times) else 0
        kept.append(kept[-1] + length + more)
        rest -= more
    return kept


def _following(state: S, length: int, advance: Callable[[S], S]) -> list[S]:
    found = [state]
    while len(found) < length:
        found.append(advance(found[-1]))
    return found


def _times(length: int, slots: int) -> int:
    """How often the states that are computed most often are computed: r of the formula."""
    times = 0
    while reach(slots, times) < length:
        times += 1
    return times


def _split(length: int, slots: int) -> int:
    """How far ahead the next state is to be held: of the best choices, the one that makes longest lists."""
    times = _times(length, slots)
    return min(reach(slots, times - 1), length - reach(slots - 1, times - 1))
