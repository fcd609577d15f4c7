"""What a curation comes to, in a few words with its numbers."""

from typing import NamedTuple

import numpy as np

__all__ = ["Found", "verdict"]


class Found(NamedTuple):
    """The set that is recommended, who chose it and its size: of all `sets` that were compared the best, by
    `curve`, the mean change of loss of `judges` examples without sets that they did not choose.

    `effect`, from `low` to `high`: the same where chooser and k were chosen without them, too. `choosing`:
    what the set itself changes of the loss of all, who chose it; `random` [draw]: what random ones do;
    `before`: the loss with all examples; `runs` [run]: the effect in each run.
    """

    chooser: str
    k: int
    curve: float
    effect: float
    low: float
    high: float
    choosing: float
    random: np.ndarray
    before: float
    judges: int
    sets: int
    runs: np.ndarray

    @property
    def helps(self) -> bool:
        """Whether the whole interval of the effect lies below zero."""
        return self.curve < 0 and self.high < 0

    @property
    def recommendation(self) -> str:
        return f"drop the {self.k} most harmful by {self.chooser}" if self.helps else "drop nothing"


def verdict(found: Found) -> str:
    """What to do, what choosing so does to examples that had no part in the choice, and what the set itself
    does to those that chose it."""
    which = f"the {found.k} most harmful by {found.chooser}"
    if found.curve >= 0:
        if found.sets == 1:
            return (
                f"drop nothing: without {which}, the loss of examples that did not choose changes by "
                f"{found.curve:+.2g}"
            )
        return (
            f"drop nothing: none of the {found.sets} choices of chooser and k lowers the loss of examples "
            f"that did not choose (best {found.curve:+.2g}, {which})"
        )
    part = f" ({100 * found.effect / found.before:+.2g} %)" if found.before > 0 else ""
    several = len(found.runs) > 1
    runs = (
        f" (in {len(found.runs)} runs {found.runs.min():+.2g} to {found.runs.max():+.2g})" if several else ""
    )
    effect = f"{found.effect:+.2g}{part}{runs}, interval {found.low:+.2g} to {found.high:+.2g}"
    best, worst, draws = found.random.min(), found.random.max(), len(found.random)
    random = f"a random set of this size changes it by {best:+.2g}"
    if draws > 1:
        random = (
            f"{draws} random sets of this size change it by {found.random.mean():+.2g} on average "
            f"({best:+.2g} to {worst:+.2g})"
        )
    judged = f"changes the mean loss of {found.judges} examples, which had no part in their set's choice, by"
    if found.helps:
        alike = ", so the choice is no better than the best of them" if best <= found.effect else ""
        return (
            f"{found.recommendation}: choosing so {judged} {effect}; where it was chosen, the set itself "
            f"changes it by {found.choosing:+.2g}, which flatters; {random}{alike}"
        )
    return (
        f"drop nothing: the best choice, {which}, looks as if it changed the loss by {found.curve:+.2g}, but "
        f"choosing so {judged} {effect}, which is not below zero; {random}"
    )
