"""Windows that say how far one may ask, and what their figures of trust come to in words.

What decides is the horizon between absence and evaluation: a small difference in the weights grows on its way
(docs/trust.md). Three families, each from short to long:

    global       absent from the start, evaluated after 1, 2, 4, ... epochs: one retraining for all of them
    window       absent in the last 1, 2, 4, ... epochs, evaluated at the end
    occurrence   absent in one epoch, evaluated at the end, 0, 1, 2, 4, ... epochs later
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from influencekit.windows import Window

__all__ = ["believed", "gap", "horizons", "reach"]

_FEW = 4  # epochs; of fewer, the run is cut into eighths
_ENOUGH = 12  # examples that a figure rests on


def horizons(epochs: Sequence[int]) -> list[Window]:
    """The windows of the three families, of a run whose steps have these epochs.

    A run of fewer than four epochs is cut into eighths instead. Cost of one example without which they are
    all retrained: at most about six whole runs.
    """
    number = np.asarray(epochs)
    bounds = [0, *(1 + np.flatnonzero(np.diff(number))).tolist(), len(number)]
    if len(bounds) <= _FEW:
        bounds = np.unique(np.linspace(0, len(number), 9).round().astype(int)).tolist()
    last = len(bounds) - 1
    counts = _doubled(1, last)
    found = [Window(0, bounds[k], "global") for k in counts]
    found += [Window(bounds[last - k], bounds[last], "window") for k in counts]
    gaps = [0, *_doubled(1, last - 1)] if last > 1 else [0]
    return found + [Window(bounds[last - g - 1], bounds[last - g], "occurrence") for g in gaps]


def _doubled(first: int, last: int) -> list[int]:
    found = [first]
    while 2 * found[-1] < last:
        found.append(2 * found[-1])
    return sorted({*found, last})


def reach(window: Window) -> int:
    """The steps of absence."""
    low, high = window.absent()
    return high - low


def gap(window: Window, steps: int) -> int:
    """The steps between the end of absence and the last evaluation."""
    return max(window.evaluations(steps)) - window.absent()[1]


_WORDS = {  # and, where even the shortest is not believed, what that is
    "start": ("absence from the start up to step {}", "absence from the start not even up to step {}"),
    "global": (
        "of absence from the start, what up to {} later steps add",
        "of absence from the start, not even what {} later steps add",
    ),
    "window": ("windows of up to {} steps", "not even windows of {} steps"),
    "last": ("absence in the last {} steps", "absence not even in the last {} steps"),
    "occurrence": (
        "up to {} steps between absence and evaluation",
        "not even {} steps between absence and evaluation",
    ),
}


def believed(
    windows: Sequence[Window], trust: np.ndarray, limit: float, steps: int,
    counts: Sequence[int] | None = None,
) -> str:  # fmt: skip
    """The largest window, and the longest horizon between absence and evaluation, that may be believed.

    Of each kind of removal the longest such that its figure, and that of all shorter ones, reaches the limit.
    A global window that starts later is a kind of its own: it is what its steps add to the effect. `trust`
    [window]; NaN was not looked at, or nothing can be said of it. `counts` [window]: how many examples a
    figure rests on. One that rests on fewer than 12 says nothing, for or against, where others of its kind
    rest on more: where the true rank correlation is .95, that of 8 normal pairs is below .8 by chance in one
    of nine windows, that of 12 in one of nineteen, that of 16 in one of forty. Empty where nothing is known.
    """
    kinds: dict[str, list[tuple[int, float, int]]] = defaultdict(list)
    at_end = all(window.stop == steps for window in windows if window.removal == "window")
    each = [_ENOUGH] * len(windows) if counts is None else counts
    for window, value, count in zip(windows, trust.tolist(), each, strict=True):
        if value == value:
            kinds[_kind(window, at_end)].append((_length(window, steps), value, count))
    said = []
    for kind, figures in kinds.items():
        enough = min(_ENOUGH, max(count for _, _, count in figures))
        known: dict[int, list[float]] = defaultdict(list)
        for length, value, count in figures:
            if count >= enough:
                known[length].append(value)
        lengths = sorted(known)
        good = [min(known[n]) >= limit for n in lengths]
        far = good.index(False) if False in good else len(good)
        said.append(_WORDS[kind][not far].format(lengths[max(0, far - 1)]))
    return "; ".join(said)


def _kind(window: Window, at_end: bool) -> str:
    if window.removal == "global":
        return "global" if window.start else "start"
    return "last" if window.removal == "window" and at_end else str(window.removal)


def _length(window: Window, steps: int) -> int:
    if window.removal == "global":
        return window.stop - window.start
    return gap(window, steps) if window.removal == "occurrence" else reach(window)
