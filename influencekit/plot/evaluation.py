"""What scores are worth: predicted against retrained sets, brittleness curves, Taylor remainders."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from influencekit.direction import most
from influencekit.errors import InputError
from influencekit.plot.style import COLOURS, LINES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["brittleness", "predicted", "taylor"]


def predicted(result: xr.Dataset, figure: Figure | None = None) -> list[Axes]:
    """Sums of scores against retraining without the set: one panel an estimator, one point a set.

    `result` is what `evaluation.lds` or `evaluation.leave_k_out` returns, for one seed or several; points of
    one k have one colour. On the grey diagonal (where it is in view) the sum is right in size, too. The title
    has the score.
    """
    names = result.estimator.values.tolist()
    columns = 2 if len(names) == 4 else min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = figure if figure is not None else new_figure(3.8 * columns + 0.4, 4.2 * rows)
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
        words = "" if said is None else f"\nLDS {_number(said)}"
        ax.set(title=name + words, xlabel="sum of scores left out", ylabel="retrained")
    if grouped:
        axes[0].legend(frameon=False, fontsize="small")
    for ax in axes[len(names) :]:
        ax.remove()
    return axes[: len(names)]


def brittleness(result: xr.Dataset, figure: Figure | None = None) -> list[Axes]:
    """The retrained effect on the query of removing the k most helpful, and the k most harmful, by k.

    `result` is what `evaluation.brittleness` returns, and the panels are titled by its coordinate `removed`.
    A line an estimator, the mean over seeds, queries and windows; grey: random examples, the mean and the
    range of the draws. A third panel shows the share of flipped predictions without the most helpful, where
    there are such; two, where the query knows no helpful ones. k is on a logarithmic axis.
    """
    names, k = result.estimator.values.tolist(), result.k.values
    ends = [str(word) for word in result.removed.values]
    flips = [word for word in ends if word != "harmful"] if "flips" in result else []
    figure = figure if figure is not None else new_figure(4.2 * (2 + len(flips)) + 0.4, 4.0)
    axes = list(figure.subplots(1, 2 + len(flips), squeeze=False).ravel())
    control = _mean(result.control, ("draw", "k"))
    for ax, removed in zip(axes, ends, strict=False):
        for j, name in enumerate(names):
            curve = _mean(result.effect.sel(estimator=name, removed=removed), ("k",))
            ax.plot(k, curve, label=name, **_look(j, len(names)))
        ax.plot(k, control.mean(0), color="0.5", linewidth=1, label="random")
        ax.fill_between(k, control.min(0), control.max(0), color="0.5", alpha=0.2, linewidth=0)
        ax.axhline(0, color="0.85", linewidth=0.8, zorder=0)
        ax.set(title=_without(removed), xlabel="k", ylabel="effect on the query, retrained")
        ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    for ax, removed in zip(axes[2:], flips, strict=True):
        for j, name in enumerate(names):
            curve = _mean(result.flips.sel(estimator=name, removed=removed), ("k",))
            ax.plot(k, 100 * curve, **_look(j, len(names)))
        ax.plot(k, 100 * _mean(result.control_flips, ("k",)), color="0.5", linewidth=1)
        ax.set(title=_without(removed), xlabel="k", ylabel="predictions flipped, %")
        ax.set_ylim(bottom=0)
    for ax in axes:
        ax.set_xscale("log")
        ax.set_xticks(k, [str(each) for each in k])
        ax.minorticks_off()
    axes[0].legend(frameon=False)
    return axes


def _without(removed: str) -> str:
    title = most(removed)
    return f"without the k {title}" if title.startswith("most") else f"without k whose {title}"


def taylor(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """What first order leaves over, by the size h of the weight change, on logarithmic axes.

    `result` is what `evaluation.taylor` returns. A line an estimator (the geometric mean over seeds) with its
    slope; dotted: slopes 2 and 1; grey: what rounding alone does.
    """
    if "remainder" not in result:
        raise InputError("taylor: expected the result of evaluation.taylor")
    ax = ax if ax is not None else new_figure(5.4, 4.2).subplots()
    h, names = result.h.values, result.estimator.values.tolist()
    top = 0.0
    for j, name in enumerate(names):
        left = result.remainder.sel(estimator=name).transpose(..., "h").values.reshape(-1, len(h))
        curve = np.exp(np.log(np.maximum(left, 1e-300)).mean(0))
        top = max(top, float(curve[0]))
        slope = _number(result.slope.sel(estimator=name))
        ax.plot(h, curve, marker=".", label=f"{name}, slope {slope}", **_look(j, len(names)))
    low = float(result.noise.mean())
    for power in (1, 2):
        ax.plot(h, top * (h / h[0]) ** power, color="0.7", linewidth=0.8, linestyle=":", zorder=0)
    if low > 0:
        ax.axhspan(low / 10, low, color="0.85", zorder=0)
        ax.set_ylim(low / 10, 5 * top)
    ax.set(xscale="log", yscale="log", xlabel="weight change h", ylabel="remainder of first order")
    ax.legend(frameon=False)
    return ax


def _look(j: int, count: int) -> dict[str, Any]:
    return {
        "color": COLOURS[j % len(COLOURS)],
        "linestyle": LINES[(j + j // len(COLOURS)) % len(LINES)],
        "linewidth": 1.4 + 1.4 * (1 - (j + 1) / count),  # the first the widest: none hides another
    }


def _mean(values: xr.DataArray, kept: tuple[str, ...]) -> np.ndarray:
    return values.mean([d for d in values.dims if d not in kept], skipna=True).transpose(*kept).values


def _number(values: xr.DataArray) -> str:
    if "seed" in values.dims and values.sizes["seed"] > 1:
        each = values.mean([d for d in values.dims if d != "seed"], skipna=True)
        return f"{float(each.mean()):.3f} ± {float(each.std()):.3f}"
    return f"{float(values.mean()):.3f}"
