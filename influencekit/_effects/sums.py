"""How far a sum of scores may be believed: beside retraining without growing parts of the same set.

A score is the derivative at the full training set. The more examples go at once, the further the run is from
where that derivative was taken; for a large set the sum can have the wrong sign.
"""

import math
from collections.abc import Sequence

import numpy as np

from influencekit.windows import Window

__all__ = ["part_sizes", "verdict", "worst_verdict"]

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
    if not (e.any() or r.any()):
        return "removing them changes nothing, and the sum says so"
    wrong = np.sign(e) != np.sign(r)
    shown = f"{e[-1] / r[-1] if r[-1] else 1:.2g} times what retraining shows"
    if wrong[-1]:
        right = np.flatnonzero(~wrong)
        first = n[right[-1] + 1] if len(right) else n[0]
        return f"the sum has the wrong sign{f' from {first} examples on' if len(n) > 1 else ''}"
    if wrong.any():
        some = _list([k for k, w in zip(n, wrong, strict=True) if w])
        return f"the sum has the wrong sign for {some} examples; of all {n[-1]} it is {shown}"
    off = np.abs(e - r) / np.where(r == 0, 1, np.abs(r))
    if off.max() <= NEAR:
        of_all = f"all {n[-1]} examples" if n[-1] > 1 else "this example"
        return f"the sum holds to within {_percent(off.max())} for {_list([*n[:-1], of_all])}"
    near = int((np.maximum.accumulate(off) <= NEAR).sum())
    if not near:
        return f"the sum is {shown}"
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

    def off(k: int) -> float:
        e, r = estimate[k, -1], retrained[k, -1]
        return float(abs(e - r) / abs(r)) if r else float(bool(e)) * math.inf

    worst = max(range(len(windows)), key=off)
    said = verdict(sizes, estimate[worst], retrained[worst])
    return said if len(windows) == 1 else f"in window {windows[worst]}, the worst of {len(windows)}: {said}"
