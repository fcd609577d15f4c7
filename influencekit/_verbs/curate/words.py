"""What a curation comes to, in one sentence with its numbers."""

from typing import NamedTuple

import numpy as np

__all__ = ["Found", "verdict"]


class Found(NamedTuple):
    """The set that the choosing part likes best: who chose it, its size, its effect on the choosing part and
    on the held-out part with its interval, that of `random` sets [draw] of its size, and the loss of the
    held-out part with all examples."""

    chooser: str
    k: int
    choosing: float
    effect: float
    low: float
    high: float
    random: np.ndarray
    before: float

    @property
    def helps(self) -> bool:
        """Whether the whole interval of the held-out effect lies below zero."""
        return self.choosing < 0 and self.high < 0

    @property
    def recommendation(self) -> str:
        return f"drop the {self.k} most harmful by {self.chooser}" if self.helps else "drop nothing"


def verdict(found: Found, judges: int, sets: int) -> str:
    """One sentence: what to do, and what leaving the set out does to `judges` examples that nobody chose on;
    `sets`: of how many it is the best."""
    if found.choosing >= 0:
        return (
            f"drop nothing: none of the {sets} sets lowers the loss even of the examples that chose them "
            f"(best {found.choosing:+.2g}, the {found.k} most harmful by {found.chooser})"
        )
    part = f" ({100 * found.effect / found.before:+.2g} %)" if found.before > 0 else ""
    effect = f"{found.effect:+.2g}{part}, interval {found.low:+.2g} to {found.high:+.2g}"
    best, worst = found.random.min(), found.random.max()
    random = (
        f"{len(found.random)} random sets of this size change it by {found.random.mean():+.2g} on average "
        f"({best:+.2g} to {worst:+.2g})"
    )
    if found.helps:
        alike = ", so the choice is no better than the best of them" if best <= found.effect else ""
        return (
            f"{found.recommendation}: the mean loss of {judges} examples that nobody chose on changes by "
            f"{effect}; {random}{alike}"
        )
    return (
        f"drop nothing: without the {found.k} most harmful by {found.chooser}, the best of {sets} sets on "
        f"the examples that chose them ({found.choosing:+.2g}), the mean loss of {judges} others changes by "
        f"{effect}, which is not below zero; {random}"
    )
