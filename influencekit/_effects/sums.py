"""How far a sum of scores may be believed: beside retraining without growing parts of the same set.

A score is the derivative at the full training set. The more examples go at once, the further the run is from
where that derivative was taken; for a large set the sum can have the wrong sign.
"""

import math
from collections.abc import Sequence

import numpy as np

from influencekit.windows import Window

__all__ = ["part_sizes", "selected_verdict", "verdict", "worst_verdict", "worst_window"]

NEAR = 0.25  # of the truth; what is further off is told as a factor


def part_sizes(count: int, parts: int) -> list[int]:
    """So many sizes up to `count`, each half of the next (rounded up); fewer where halving ends at one."""
    return sorted({math.ceil(count / 2**k) for k in range(parts)})


def verdict(sizes: Sequence[int], estimate: np.ndarray, retrained: np.ndarray) -> str:
    """One sentence about sums [part] and what retraining shows [part] of parts of these sizes, ascending."""
    if not np.isfinite([estimate[-1], retrained[-1]]).all():
        return "nothing can be said of the sum: some of its examples were not scored"
    known = np.isfinite(estimate) & np.isfinite(retrained)
    n, e, r = np.asarray(sizes)[known].tolist(), estimate[known], retrained[known]
    what = "the sum" if n[-1] > 1 else "the score"
    if not (e.any() or r.any()):
        return f"removing {'them' if n[-1] > 1 else 'it'} changes nothing, and {what} says so"
    wrong = np.sign(e) != np.sign(r)
    shown = f"{e[-1] / r[-1] if r[-1] else 1:.2g} times what retraining shows"
    if wrong[-1]:
        right = np.flatnonzero(~wrong)
        first = n[right[-1] + 1] if len(right) else n[0]
        return f"{what} has the wrong sign{f' from {first} examples on' if len(n) > 1 else ''}"
    if wrong.any():
        some = _list([k for k, w in zip(n, wrong, strict=True) if w])
        return f"the sum has the wrong sign for {some} examples; of all {n[-1]} it is {shown}"
    off = np.abs(e - r) / np.where(r == 0, 1, np.abs(r))
    if off.max() <= NEAR:
        of_all = f"all {n[-1]} examples" if n[-1] > 1 else "this example"
        return f"{what} holds to within {_percent(off.max())} for {_list([*n[:-1], of_all])}"
    near = int((np.maximum.accumulate(off) <= NEAR).sum())
    if not near:
        return f"{what} is {shown}"
    within = _percent(off[:near].max())
    return f"the sum holds to within {within} up to {n[near - 1]} examples; of all {n[-1]} it is {shown}"


def _percent(part: float) -> str:
    return f"{max(1, math.ceil(100 * part - 1e-9))} %"


def _list(words: Sequence[object]) -> str:
    *most, last = map(str, words)
    return f"{', '.join(most)} and {last}" if most else last


def worst_verdict(
    sizes: Sequence[int], estimate: np.ndarray, retrained: np.ndarray, windows: Sequence[Window]
) -> str:
    """The verdict on the window that is furthest off, of sums and truths [window, part], and which it is."""
    worst = worst_window(estimate[:, -1], retrained[:, -1])
    said = verdict(sizes, estimate[worst], retrained[worst])
    return said if len(windows) == 1 else f"in window {windows[worst]}, the worst of {len(windows)}: {said}"


def worst_window(estimate: np.ndarray, retrained: np.ndarray) -> int:
    """The window whose sum [window] is furthest off what retraining shows [window]."""

    def off(k: int) -> float:
        e, r = estimate[k], retrained[k]
        return float(abs(e - r) / abs(r)) if r else float(bool(e)) * math.inf

    return max(range(len(estimate)), key=off)


def selected_verdict(
    count: int, runs: int, total: float, others: Sequence[float], same: float, joint: float,
    retrained: float, chosen: bool = True, alone: tuple[float, float] | None = None,
) -> str:  # fmt: skip
    """One sentence about the sum of `count` examples on the recorded run and on moved ones.

    `others`: the sum on the moved runs, and its interval; `same`: the sum of these very examples there,
    `joint`: what retraining without them shows there, on average. `chosen`: they are the ends of the recorded
    run's ranking, so that the moved runs did not choose them; else they were given. The difference of sum and
    retraining is the choice, total - same; that scores are derivatives and effects do not add up, same -
    joint; and the one run that was retrained, joint - retrained. The largest is named where the sum is off by
    more than a quarter. `alone`: the score of the strongest example and its own removal, where it is known:
    of a score that is off by itself nobody can say that the adding up is the matter.
    """
    value, low, high = others
    them, what = ("it", "score") if count == 1 else ("them", "sum")
    whose = f"the {count if count > 1 else 'one'} {'chosen' if chosen else 'given'}"
    there = (
        f"that did not choose {them}{',' if count == 1 else ''} it is"
        if chosen
        else f"from moved starts the same {what} is"
    )
    said = (
        f"the {what} {'of' if count == 1 else 'over'} {whose} is {total:+.2g}; on {runs} runs {there} "
        f"{value:+.2g} [{low:+.2g}, {high:+.2g}], where retraining without {them} shows {joint:+.2g}"
    )
    if not _off(total, retrained):
        return said
    if count == 1:
        derivative = "that a score is a derivative and not the removal"
    elif alone is not None and _off(*alone):
        derivative = "that scores are derivatives: that of the strongest example is off by itself"
    else:
        derivative = "that single scores do not add up to the effect of all"
    parts = {
        "the choice" if chosen else "that this run's scores are not those of other runs": total - same,
        derivative: same - joint,
        "that one run differs from the next": joint - retrained,
    }
    largest = max(parts, key=lambda cause: abs(parts[cause]))
    return f"{said}; what the {what} is off is mostly {largest} ({parts[largest]:+.2g})"


def _off(estimate: float, retrained: float) -> bool:
    return abs(estimate - retrained) > NEAR * abs(retrained)
