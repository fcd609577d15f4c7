"""Sums of scores against retraining."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import xarray as xr

from influencekit._labelled import dataset_of
from influencekit.plot.style import COLOURS, figure_for, mean_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["predicted"]


def predicted(result: xr.Dataset, figure: Figure | None = None) -> list[Axes]:
    """Sums of scores against retraining without the set: one panel an estimator, one point a set.

    `result` is that of the evaluation `lds` or `leave-k-out`, for one seed or several; points of one k have
    one colour. On the grey diagonal (where it is in view) the sum is right in size, too. The title has the
    score.

    Example:

        >>> import influencekit as ik
        >>> from influencekit import plot
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.evaluate(run, "lds:m=4", estimators=["dit"])
        >>> len(plot.predicted(found["lds:m=4"]))
        1
    """
    dims = ("estimator",)
    dataset_of(
        "predicted", "a result of lds or leave-k-out", result, ("predicted", "retrained", *dims), dims=dims
    )
    names = result.estimator.values.tolist()
    columns = 2 if len(names) == 4 else min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = figure_for(figure, 3.8 * columns + 0.4, 4.2 * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    grouped = "k" in result.dims
    ks: list[Any] = result.k.values.tolist() if grouped else [None]
    for ax, name in zip(axes, names, strict=False):
        one = result.sel(estimator=name)
        for k, colour in zip(ks[::-1], COLOURS * len(ks), strict=False):
            some = one.sel(k=k) if grouped else one
            x, y = xr.broadcast(some.predicted, some.retrained)
            label = f"k = {k}" if grouped else None
            ax.scatter(x.values, y.values, s=10, c=colour, alpha=0.6, linewidths=0, label=label)
        limits = ax.get_xlim(), ax.get_ylim()  # those of the points, wherever the diagonal is
        ax.axline((0, 0), slope=1, color="0.6", linewidth=0.8, zorder=0)
        ax.set(xlim=limits[0], ylim=limits[1])
        ax.locator_params(nbins=5)
        ax.ticklabel_format(style="sci", scilimits=(-2, 3), useMathText=True)
        said = one["mean"] if "mean" in one else None
        words = "" if said is None else f"\nLDS {mean_text(said)}"
        ax.set(title=name + words, xlabel="sum of scores left out", ylabel="retrained")
    if grouped:
        axes[0].legend(frameon=False, fontsize="small")
    for ax in axes[len(names) :]:
        ax.remove()
    return axes[: len(names)]
