"""The training examples that matter most: as pictures, and over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from influencekit.errors import InputError
from influencekit.plot.style import COLOURS, HARMFUL, HELPFUL, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["extremes", "timeline"]


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
    figure = figure if figure is not None else new_figure(1.25 * count + 0.5, 4.3)
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
    ax = ax if ax is not None else new_figure(7.0, 3.8).subplots()
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


def _stretched(picture: np.ndarray) -> np.ndarray:
    low, high = float(picture.min()), float(picture.max())
    return (picture - low) / ((high - low) or 1.0)


def _caption(scores: xr.DataArray, k: int) -> str:
    label = f"class {scores.label.values[k]}\n" if "label" in scores.coords else ""
    return f"{scores.example.values[k]}\n{label}{float(scores.values[k]):+.1e}"
