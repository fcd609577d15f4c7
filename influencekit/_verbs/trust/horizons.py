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
    "global": ("absence from the start up to step {}", "absence from the start not even up to step {}"),
    "window": ("windows of up to {} steps", "not even windows of {} steps"),
    "last": ("absence in the last {} steps", "absence not even in the last {} steps"),
    "occurrence": (
        "up to {} steps between absence and evaluation",
        "not even {} steps between absence and evaluation",
    ),
}


def believed(windows: Sequence[Window], trust: np.ndarray, limit: float, steps: int) -> str:
    """The largest window, and the longest horizon between absence and evaluation, that may be believed.

    Of each kind of removal the longest such that its figure, and that of all shorter ones, reaches the limit.
    `trust` [window]; NaN was not looked at, or nothing can be said of it. Empty where nothing is known.
    """
    kinds: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    at_end = all(window.stop == steps for window in windows if window.removal == "window")
    for window, value in zip(windows, trust.tolist(), strict=True):
        if value == value:
            kind = "last" if window.removal == "window" and at_end else str(window.removal)
            length = gap(window, steps) if window.removal == "occurrence" else reach(window)
            kinds[kind][length].append(value)
    said = []
    for kind, known in kinds.items():
        lengths = sorted(known)
        good = [min(known[n]) >= limit for n in lengths]
        far = good.index(False) if False in good else len(good)
        said.append(_WORDS[kind][not far].format(lengths[max(0, far - 1)]))
    return "; ".join(said)
