"""When an example mattered, in one word, and how the early part of training compares with the late one."""

from __future__ import annotations

import numpy as np

__all__ = ["PATTERNS", "fewer", "halves", "patterns"]

PATTERNS = ("early", "throughout", "late", "changes sign")
_MOST, _SOME = 2 / 3, 1 / 4
_SHOWN = 120  # windows on the page


def halves(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums [train] over the first and the second half of windows [window, train]; of an odd number the middle
    one counts half in both."""
    n = len(windows)
    weight = np.clip(n / 2 - np.arange(n), 0, 1)[:, None]
    return (weight * windows).sum(0), ((1 - weight) * windows).sum(0)


def patterns(windows: np.ndarray) -> list[str | None]:
    """The pattern of every example of windows [window, train]; None where a score is missing, or where there
    are fewer than two windows.

    Early or late: two thirds of the effect, by size, lie in the first or the second half of the windows.
    Changes sign: both halves sum up to a quarter of it or more, with opposite signs. Throughout: all others.
    """
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


def fewer(
    windows: np.ndarray, bounds: list[tuple[int, int]], added: bool
) -> tuple[np.ndarray, list[tuple[int, int]], str]:
    """At most 120 windows [window, train] with their bounds, and what was done, in words.

    Neighbours that may be added are; of others some are left out, evenly spread.
    """
    count = len(windows)
    if count <= _SHOWN:
        return windows, bounds, ""
    groups = np.array_split(np.arange(count), _SHOWN)
    if added:
        sums = np.stack([windows[g].sum(0) for g in groups])
        both = [(bounds[g[0]][0], bounds[g[-1]][1]) for g in groups]
        return sums, both, f"{count} windows are shown as {_SHOWN}: neighbours are added up."
    some = [int(g[0]) for g in groups]
    return windows[some], [bounds[k] for k in some], f"{_SHOWN} of {count} windows are shown, evenly spread."
