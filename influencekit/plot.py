"""Plots: xarray in, matplotlib Axes out. matplotlib is imported where something is drawn.

Every function draws on the Axes (or Figure) it is given and never touches pyplot's current figure or a file:
`plot.scatter(result, "dit").figure.savefig("dit.png")`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from influencekit.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["agreement", "extremes", "scatter", "timeline"]

# Okabe and Ito's colours, which the colour-blind tell apart (yellow, too pale on white, left out)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
HARMFUL, HELPFUL = COLOURS[1], COLOURS[0]


def scatter(result: xr.Dataset, estimator: str, ax: Axes | None = None, metric: str = "spearman") -> Axes:
    """Estimate against ground truth, one point an example, seed, query and window; colour is the class.

    `result` is what `compare` returns. Both axes have the same limits, so points on the grey diagonal are
    right in size, too. The title holds the mean of `metric` (and its deviation over the seeds).
    """
    reference = result.attrs["reference"]
    names = result.estimator.values.tolist()
    if estimator not in names:
        raise InputError(f"no estimator '{estimator}' in this result; it has {', '.join(names)}")
    ax = ax if ax is not None else _figure(4.2, 4.4).subplots()
    x = result.influence.sel(estimator=reference).transpose("seed", "query", "window", "train")
    y = result.influence.sel(estimator=estimator).transpose("seed", "query", "window", "train")
    both = np.isfinite(x.values) & np.isfinite(y.values)
    groups = _groups(result, x)
    size = float(np.clip(3000 / max(1, both.sum()), 2, 16))
    colours = np.full(x.shape, COLOURS[0], dtype=object)
    for (name, member), colour in zip(groups.items(), COLOURS, strict=False):
        colours[member] = colour
        ax.scatter([], [], s=30, c=colour, label=name)
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
    """A `scatter` for every estimator but the reference (for the reference, if there is no other)."""
    names = result.estimator.values.tolist()
    shown = [n for n in names if n != result.attrs["reference"]] or names
    columns = 2 if len(shown) == 4 else min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = figure if figure is not None else _figure(4.0 * columns + 0.4, 4.4 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, name in zip(axes, shown, strict=False):
        scatter(result, name, ax, metric)
    for ax in axes[len(shown) :]:
        ax.remove()
    figure.suptitle(_subject(result))
    return list(axes[: len(shown)])


def extremes(
    scores: xr.DataArray, pictures: np.ndarray, count: int = 8, figure: Figure | None = None
) -> list[Axes]:
    """The most harmful (above) and the most helpful training examples (below) as pictures.

    `scores` [train] with coordinates `example` (ids) and, if there are any, `label`; `pictures` [train, row,
    column] or [train, row, column, 3] in the same order, in any range: each is stretched to its own. Under
    each stand its id, its class and its score. Negative = harmful: without it the loss would be smaller.
    """
    if scores.dims != ("train",) or len(pictures) != scores.sizes["train"]:
        raise InputError(
            f"extremes: expected scores [train] and as many pictures, got {dict(scores.sizes)} and "
            f"{len(pictures)}"
        )
    order = scores.values.argsort(kind="stable")
    order = order[np.isfinite(scores.values[order])]
    count = min(count, len(order))
    figure = figure if figure is not None else _figure(1.25 * count + 0.5, 4.3)
    axes = figure.subplots(2, count, squeeze=False)
    rows = (("harmful", HARMFUL, order[:count]), ("helpful", HELPFUL, order[::-1][:count]))
    for row, (word, colour, chosen) in zip(axes, rows, strict=True):
        for ax, k in zip(row, chosen, strict=True):
            ax.imshow(_stretched(pictures[k]), cmap="gray", interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set(color=colour, linewidth=2)
            ax.set_xlabel(_caption(scores, int(k)), fontsize="small")
        row[0].set_ylabel(f"most {word}", color=colour)
    return list(axes.ravel())


def timeline(scores: xr.DataArray, count: int = 4, ax: Axes | None = None) -> Axes:
    """Influence over training: a line for each of the most harmful and most helpful examples, by their sum.

    `scores` [window, train] with coordinates `start`, `stop` and `example`. The grey band holds the middle
    half of all examples. Harmful ones are drawn dashed.
    """
    if scores.dims != ("window", "train"):
        raise InputError(f"timeline: expected scores [window, train], got {dict(scores.sizes)}")
    ax = ax if ax is not None else _figure(7.0, 3.8).subplots()
    when = scores.stop.values
    low, high = np.nanquantile(scores.values, [0.25, 0.75], axis=1)
    ax.fill_between(when, low, high, color="0.85", linewidth=0, label="middle half")
    order = scores.sum("window", skipna=False).values.argsort(kind="stable")
    order = order[np.isfinite(scores.values[:, order]).all(0)]
    count = min(count, len(order) // 2)
    for style, chosen in (("--", order[:count]), ("-", order[::-1][:count])):
        for k, colour in zip(chosen, COLOURS, strict=False):
            name = f"{scores.example.values[k]} ({'harmful' if style == '--' else 'helpful'})"
            ax.plot(when, scores.values[:, k], style, color=colour, linewidth=1.4, marker=".", label=name)
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    removal = str(scores.removal.values[0]) if "removal" in scores.coords else "global"
    ax.set(xlabel="step at the end of the window", ylabel=f"effect ({removal} removal)")
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=120)


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
    return f"{metric.capitalize()} {float(each.mean()):.3f}{spread}"


def _subject(result: xr.Dataset) -> str:
    setting = result.attrs.get("setting", "custom")
    words = result.attrs["workload"] + ("" if setting == "custom" else f", {setting}")
    accuracy = float(result.accuracy.mean())
    return words + ("" if math.isnan(accuracy) else f": test accuracy {100 * accuracy:.1f} %")


def _stretched(picture: np.ndarray) -> np.ndarray:
    low, high = float(picture.min()), float(picture.max())
    return (picture - low) / ((high - low) or 1.0)


def _caption(scores: xr.DataArray, k: int) -> str:
    label = f"class {scores.label.values[k]}\n" if "label" in scores.coords else ""
    return f"{scores.example.values[k]}\n{label}{float(scores.values[k]):+.1e}"
