"""Estimates beside the ceiling of their agreement, and what retraining itself reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from influencekit._labelled import dataset_of
from influencekit.errors import InputError
from influencekit.plot.agreement import subject_of
from influencekit.plot.style import COLOURS, axes_of

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["ceiling"]

MARKERS = "osD^vP*X"  # told apart without any colour
HALF = 0.42  # of the width of a metric's group


def ceiling(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The agreement of every estimator, metric by metric, below its ceiling, and a band: loo again.

    `result` is what `compare(..., ceiling=...)` returns. Points are means over seeds, queries and windows,
    with a bar of one deviation over seeds. The black line is the ceiling, the grey band one deviation around
    the mean of `loo_again`, over repeated runs and seeds. Hollow points are agreement across seeds, where the
    result has it. Errors: `InputError` for a result without a ceiling.

    Example:

        >>> import influencekit as ik
        >>> from influencekit import plot
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> axes = plot.ceiling(ik.compare(run, ["dit", "if"], ceiling=0.001, runs=3))
        >>> axes.get_ylabel()
        'agreement with loo'
    """
    names = ("agreement", "ceiling", "loo_again", "estimator", "metric")
    dims = ("estimator", "metric", "seed")
    dataset_of("ceiling", "what compare(..., ceiling=...) gives", result, names, ("reference",), dims)
    reference, metrics = result.attrs["reference"], result.metric.values.tolist()
    shown = [name for name in result.estimator.values.tolist() if name != reference]
    if not shown:
        raise InputError(f"ceiling: there is no estimator beside the reference {reference}; compare some")
    ax = axes_of(ax, 2.1 * len(metrics) + 1.6, 4.2)
    for k, metric in enumerate(metrics):
        _draw_band(ax, k, result.sel(metric=metric), first=not k)
    offsets = np.linspace(-0.28, 0.28, len(shown)) if len(shown) > 1 else np.zeros(1)
    for j, name in enumerate(shown):
        x = np.arange(len(metrics)) + offsets[j]
        look: dict[str, Any] = {
            "color": COLOURS[j % (len(COLOURS) - 1)],  # without black, the ceiling's
            "marker": MARKERS[j % len(MARKERS)],
            "linestyle": "none",
        }
        each = _of_seeds(result.agreement.sel(estimator=name))
        spread = each.std("seed", skipna=True) if each.sizes["seed"] > 1 else None
        ax.errorbar(x, each.mean("seed", skipna=True), spread, markersize=7, capsize=3, label=name, **look)
        if "cross_agreement" in result:
            across = _of_seeds(result.cross_agreement.sel(estimator=name))
            ax.plot(x, across, markersize=7, markerfacecolor="white", **look)
    if "cross_agreement" in result:
        hollow = ax.plot([], [], MARKERS[0], color="0.4", markersize=7, label="hollow: across seeds")
        hollow[0].set_markerfacecolor("white")
    ax.axhline(0, color="0.85", linewidth=0.8, zorder=0)
    ax.set_xticks(range(len(metrics)), metrics)
    ax.tick_params(axis="x", length=0)
    ax.set(xlim=(-0.5, len(metrics) - 0.5), ylim=(min(0.0, ax.get_ylim()[0]), 1.03))
    ax.set(ylabel=f"agreement with {reference}", title=subject_of(result))
    handles, labels = ax.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda k: (labels[k] not in shown, labels[k] != "ceiling"))
    ax.legend(
        [handles[k] for k in order], [labels[k] for k in order], frameon=False, loc="center left",
        bbox_to_anchor=(1, 0.5),
    )  # fmt: skip
    return ax


def _draw_band(ax: Axes, k: int, one: xr.Dataset, first: bool) -> None:
    """The band of one more retraining and the line of the ceiling, for the metric at position k."""
    again = _of_seeds(one.loo_again).values
    middle, spread = np.nanmean(again), np.nanstd(again)
    place = [k - HALF, k + HALF]
    count = one.sizes["repeat"]
    words = f"loo again, {count} runs" if count > 1 else "loo again"
    ax.fill_between(
        place, middle - spread, min(1.0, middle + spread), color="0.8", linewidth=0, zorder=0,
        label=f"{words} (± deviation)" if first else None,
    )  # fmt: skip
    most = float(_of_seeds(one.ceiling).mean("seed", skipna=True))
    ax.plot(place, [most, most], color="black", linewidth=1.6, label="ceiling" if first else None)


def _of_seeds(values: xr.DataArray) -> xr.DataArray:
    """The mean over queries and windows."""
    return values.mean(("query", "window"), skipna=True)
