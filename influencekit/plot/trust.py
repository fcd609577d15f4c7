"""Trust by window: how far one may ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from influencekit._labelled import dataset_of
from influencekit.plot.style import axes_of, line_look, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["trust_by_window"]

_LINES = {
    "global": "absent from the start, by the step of evaluation",
    "window": "absent in a window, by its length",
    "occurrence": "absent before the end, by the steps between",
}


def trust_by_window(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The figure of trust by the horizon between absence and evaluation, a line for each kind of removal.

    `result` is what `trust` returns, best with windows="horizons". Points are single windows; a line joins
    the lowest at each horizon. Grey: the limit, below which scores are not to be believed. The horizon is
    `reach`, the steps of absence; for the removal `occurrence` it is `gap`, the steps between absence and
    evaluation. Windows that were not looked at have no point.

    Errors: `InputError` for anything but a result of `trust`.

    Example:

        >>> import influencekit as ik
        >>> from influencekit import plot
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=4"))
        >>> axes = plot.trust_by_window(ik.trust(run, examples=8, windows="horizons"))
        >>> len(axes.get_legend().get_texts())
        3
    """
    dataset_of(
        "trust_by_window", "what trust(...) gives", result, ("trust", "reach", "gap", "removal"), ("limit",),
        ("window",),
    )  # fmt: skip
    ax = axes_of(ax, 5.4, 3.8)
    kinds = [kind for kind in _LINES if kind in result.removal.values]
    for k, kind in enumerate(kinds):
        some = result.isel(window=result.removal.values == kind)
        x, y = (some.gap if kind == "occurrence" else some.reach).values, some.trust.values
        x, y = x[~np.isnan(y)], y[~np.isnan(y)]
        look = line_look(k, len(kinds))
        ax.scatter(x, y, s=18, c=look["color"], zorder=3)
        at = np.unique(x)
        ax.plot(at, [y[x == one].min() for one in at], label=_LINES[kind], **look)
    ax.axhline(result.attrs["limit"], color="0.6", linewidth=0.8, zorder=0)
    ax.set(xlabel="steps", ylabel="trust", ylim=(min(-0.05, ax.get_ylim()[0]), 1.05))
    whole_numbers(ax)
    ax.legend(frameon=False, fontsize="small", loc="lower left")
    return ax
