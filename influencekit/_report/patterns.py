"""When an example mattered, in one word, and how the early part of training compares with the late one."""

from __future__ import annotations

import numpy as np

__all__ = ["PATTERNS", "RULE", "halves", "patterns"]

PATTERNS = ("early", "throughout", "late", "changes sign")
RULE = (
    "early or late: two thirds of the effect, by size, lie in the first or the second half of the windows; "
    "changes sign: both halves have a quarter of it or more as their sums, with opposite signs; throughout: "
    "all others"
)
_MOST, _SOME = 2 / 3, 1 / 4


def halves(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums [train] over the first and the second half of windows [window, train]; of an odd number the middle
    one counts half in both."""
    n = len(windows)
    weight = np.clip(n / 2 - np.arange(n), 0, 1)[:, None]
    return (weight * windows).sum(0), ((1 - weight) * windows).sum(0)


def patterns(windows: np.ndarray) -> list[str | None]:
    """The pattern of every example of windows [window, train], by `RULE`; None where a score is missing, or
    where there are fewer than two windows."""
    if len(windows) < 2:
        return [None] * windows.shape[1]
    size = np.abs(windows).sum(0)
    early_size, late_size = halves(np.abs(windows))
    early, late = halves(windows)
    found: list[str | None] = []
    for k in range(windows.shape[1]):
        if not np.isfinite(size[k]):
            found.append(None)
        elif early[k] * late[k] < 0 and min(abs(early[k]), abs(late[k])) >= _SOME * size[k]:
            found.append("changes sign")
        elif size[k] and early_size[k] >= _MOST * size[k]:
            found.append("early")
        elif size[k] and late_size[k] >= _MOST * size[k]:
            found.append("late")
        else:
            found.append("throughout")
    return found
