"""Estimates against ground truth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from influencekit._arguments import one_of
from influencekit._labelled import dataset_of
from influencekit.plot.style import COLOURS, axes_of, figure_for, name_text, subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["agreement", "scatter", "subject_of"]


def scatter(result: xr.Dataset, estimator: str, ax: Axes | None = None, metric: str = "spearman") -> Axes:
    """Estimate against ground truth, one point an example, seed, query and window; colour is the class.

    `result` is what `compare` returns. Both axes have the same limits, so points on the grey diagonal are
    right in size, too. The title holds the mean of `metric` (and its deviation over the seeds).

    Errors: `InputError` for an estimator or a metric that the result does not have.

    Example:

        >>> import influencekit as ik
        >>> from influencekit import plot
        >>> result = ik.compare("mnist-1v7-lr:n_train=24:epochs=2", ["dit"])
        >>> axes = plot.scatter(result, "dit")
        >>> axes.get_xlabel() != ""
        True
    """
    reference, names = _compared("scatter", result)
    one_of("scatter: estimator", estimator, names)
    one_of("scatter: metric", metric, result.metric.values.tolist())
    ax = axes_of(ax, 4.2, 4.4)
    x = result.influence.sel(estimator=reference).transpose("seed", "query", "window", "train")
    y = result.influence.sel(estimator=estimator).transpose("seed", "query", "window", "train")
    both = np.isfinite(x.values) & np.isfinite(y.values)
    groups = _groups(result, x)
    size = float(np.clip(3000 / max(1, both.sum()), 2, 16))
    colours = np.full(x.shape, COLOURS[0], dtype=object)
    for (name, member), colour in zip(groups.items(), COLOURS, strict=False):
        colours[member] = colour
        ax.scatter([], [], s=30, c=colour, label=name_text(name))
    mixed = np.random.default_rng(0).permutation(int(both.sum()))  # no class hides the others
    points = [values[both][mixed] for values in (x.values, y.values)]
    ax.scatter(points[0], points[1], s=size, c=colours[both][mixed], alpha=0.6, linewidths=0)
    span = np.concatenate([x.values[both], y.values[both]]) if both.any() else np.array([-1.0, 1.0])
    low, high = float(span.min()), float(span.max())
    pad = 0.05 * (high - low) or 1.0
    ax.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad), aspect="equal")
    ax.axline((0, 0), slope=1, color="0.6", linewidth=0.8, zorder=0)
    for line in (ax.axhline, ax.axvline):
        line(0, color="0.85", linewidth=0.8, zorder=0)
    ax.set(xlabel=f"{reference} (ground truth)", ylabel=f"{estimator} (estimate)")
    ax.locator_params(nbins=6)
    ax.ticklabel_format(style="sci", scilimits=(-2, 3), useMathText=True)
    ax.set_title(f"{estimator}\n{_agreement(result, estimator, metric)}")
    if len(groups) > 1:
        ax.legend(title="class", frameon=False, fontsize="small")
    return ax


def agreement(result: xr.Dataset, metric: str = "spearman", figure: Figure | None = None) -> list[Axes]:
    """A `scatter` for every estimator but the reference (for the reference, if there is no other).

    Example:

        >>> import influencekit as ik
        >>> from influencekit import plot
        >>> result = ik.compare("mnist-1v7-lr:n_train=24:epochs=2", ["dit"])
        >>> len(plot.agreement(result))
        1
    """
    reference, names = _compared("agreement", result)
    shown = [n for n in names if n != reference] or names
    columns = 2 if len(shown) == 4 else min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = figure_for(figure, 4.0 * columns + 0.4, 4.4 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, name in zip(axes, shown, strict=False):
        scatter(result, name, ax, metric)
    for ax in axes[len(shown) :]:
        ax.remove()
    figure.suptitle(subject_of(result))
    return list(axes[: len(shown)])


def _compared(who: str, result: Any) -> tuple[str, list[str]]:
    """The reference and the estimators of what `compare` returned. Errors: anything else."""
    needed = ("influence", "agreement", "accuracy", "estimator", "metric")
    dims = ("estimator", "metric", "seed", "query", "window", "train")
    dataset_of(who, "what compare(...) gives", result, needed, ("reference",), dims)
    names = result.estimator.values.tolist()
    return one_of(f"{who}: the reference", result.attrs["reference"], names), names


def _groups(result: xr.Dataset, like: xr.DataArray) -> dict[str, Any]:
    """{class: mask shaped like `like`}; one group where there are no classes, or too many for colours."""
    if "label" in result.coords:
        names = sorted(set(result.label.values.ravel().tolist()))
        if 1 < len(names) <= len(COLOURS):
            each = {str(n): (result.label == n).transpose("seed", "train").values for n in names}
            return {n: np.broadcast_to(m[:, None, None], like.shape) for n, m in each.items()}
    return {"all": np.ones(like.shape, dtype=bool)}


def _agreement(result: xr.Dataset, estimator: str, metric: str) -> str:
    each = result.agreement.sel(estimator=estimator, metric=metric).mean(("query", "window"))
    spread = f" ± {float(each.std()):.3f}" if each.size > 1 else ""
    words = f"{metric.capitalize()} {float(each.mean()):.3f}{spread}"
    if "ceiling" in result and estimator != result.attrs["reference"]:
        words += f" (ceiling {float(result.ceiling.sel(metric=metric).mean()):.3f})"
    return words


def subject_of(result: xr.Dataset) -> str:
    """What was compared, how it was trained, and how good the model is."""
    setting = result.attrs.get("setting", "custom")
    words = name_text(subject(result.attrs), 80) + ("" if setting == "custom" else f", {setting}")
    accuracy = float(result.accuracy.mean())
    return words + ("" if math.isnan(accuracy) else f": test accuracy {100 * accuracy:.1f} %")
