"""The training examples that matter most: as pictures, and over time."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from influencekit._arguments import short, whole_number
from influencekit._direction import better_in, effect_of, ends
from influencekit._direction import extremes as both_ends
from influencekit._labelled import array_of
from influencekit._training.ids import positions_among
from influencekit.errors import InputError
from influencekit.plot.style import COLOURS, axes_of, figure_for, name_text, side_colour, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["extremes", "timeline"]


def extremes(
    scores: xr.DataArray, pictures: np.ndarray, count: int = 8, figure: Figure | None = None
) -> list[Axes]:
    """The most harmful (above) and the most helpful training examples (below) as pictures.

    `scores` [train] with coordinates `train` (ids) and, if there are any, `label` (classes); `pictures`
    [train, row, column] or [train, row, column, 3] in the same order, in any range: each is stretched to its
    own. Under each stand its id, its class and its score. The attr `better` of the scores, which `estimate`
    and `compare` set, says which sign is harmful; without it the rows say that removal lowers or raises the
    query. A row holds examples of its own sign only; where there is none, the nearest, and says so.

    Example:

        >>> import influencekit as ik
        >>> from influencekit import plot
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> scores = ik.estimate(run).influence[0, 0]
        >>> len(plot.extremes(scores, run.workload.train[0][:, 0].numpy(), count=2))
        4
    """
    array_of("extremes", "scores [train]", scores, "train")
    whole_number("extremes: count", count, 1)
    shape = np.shape(pictures) if isinstance(pictures, np.ndarray) else ()
    if (
        len(shape) not in (3, 4)
        or shape[0] != scores.sizes["train"]
        or shape[3:] not in ((), (1,), (3,), (4,))
    ):
        raise InputError(
            f"extremes: expected an array of {scores.sizes['train']} pictures [train, row, column] or "
            f"[train, row, column, 3], got {list(shape) or short(pictures)}"
        )
    if not 0 < pictures[0].size or pictures.dtype.kind not in "biuf":
        raise InputError(f"extremes: expected pictures of numbers, got {pictures.dtype} {list(shape)}")
    better = better_in(scores.attrs)
    rows = both_ends(scores.values, better, count)
    count = max(len(chosen) for _, _, chosen in rows)
    figure = figure_for(figure, 1.25 * count + 0.5, 4.3)
    axes = figure.subplots(2, count, squeeze=False)
    for row, (title, sign, chosen) in zip(axes, rows, strict=True):
        colour = side_colour(sign, better)
        for ax, k in zip(row, chosen, strict=False):
            ax.imshow(_stretched(pictures[k]), cmap="gray", interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set(color=colour, linewidth=2)
            ax.set_xlabel(_caption(scores, k), fontsize="small")
        row[0].set_ylabel(title.replace(": none (", ": none\n("), color=colour)
        for ax in row[len(chosen) :]:
            ax.remove()
    return [ax for row, (_, _, chosen) in zip(axes, rows, strict=True) for ax in row[: len(chosen)]]


def timeline(
    scores: xr.DataArray, count: int = 4, ax: Axes | None = None, ids: Iterable[Hashable] | None = None
) -> Axes:
    """Influence over training: a line for each of the most harmful and most helpful examples, by their sum.

    `scores` [window, train] with coordinates `start`, `stop` and `train` (ids). `count` examples of each
    sign; where one sign has fewer, more of the other, so that 2 `count` lines are drawn if there are as many
    examples. Or the examples of these `ids`, your own names. Each is called by its own sign and the attr
    `better` of the scores, as in `extremes`, and by its class. Lines of the first kind (harmful) are dashed.
    The grey band holds the middle half of all examples. Errors: an id that no example has, by name.

    Example:

        >>> import influencekit as ik
        >>> from influencekit import plot
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> scores = ik.estimate(run, windows="each-epoch").influence[0]
        >>> axes = plot.timeline(scores, count=2)
        >>> len(axes.get_lines()) > 3
        True
    """
    array_of("timeline", "scores [window, train]", scores, "window", "train")
    if "stop" not in scores.coords:
        raise InputError("timeline: these scores have no coordinate stop, the ends of the windows")
    whole_number("timeline: count", count, 1)
    ax = axes_of(ax, 7.0, 3.8)
    when, better, own = scores.stop.values, better_in(scores.attrs), _ids(scores)
    low, high = np.nanquantile(scores.values, [0.25, 0.75], axis=1)
    ax.fill_between(when, low, high, color="0.85", linewidth=0, label="middle half")
    total = scores.sum("window", skipna=False).values
    first = ends(better)[0][1]
    drawn = {first: 0, -first: 0}
    shown = _both_sides(total, count, first) if ids is None else positions_among(ids, own)
    for number, k in enumerate(shown):
        sign = first if total[k] * first > 0 else -first
        colour = COLOURS[(drawn[sign] if ids is None else number) % len(COLOURS)]
        drawn[sign] += 1
        label = f"{name_text(scores.label.values[k], 16)}, " if "label" in scores.coords else ""
        name = f"{name_text(own[k])} ({label}{effect_of(total[k], better)})"
        style = "--" if sign == first else "-"
        ax.plot(when, scores.values[:, k], style, color=colour, linewidth=1.4, marker=".", label=name)
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    removal = str(scores.removal.values[0]) if "removal" in scores.coords else "global"
    ax.set(xlabel="step at the end of the window", ylabel=f"effect ({removal} removal)")
    whole_numbers(ax)
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def _both_sides(total: np.ndarray, count: int, first: int) -> list[int]:
    """Positions of the `count` strongest of sign `first` and of the others, filled up from the other side."""
    order = total.argsort(kind="stable")[::-first]
    order = order[np.isfinite(total[order])]
    split = int((total[order] * first > 0).sum())
    one, other = order[:split], order[split:][::-1]
    most = min(2 * count, len(order))
    left = min(len(one), max(count, most - len(other)))
    return [*one[:left].tolist(), *other[: most - left].tolist()]


def _ids(scores: xr.DataArray) -> list[Any]:
    """The examples' names: `train`, or one seed's `example` where seeds differ, or positions."""
    for name in ("train", "example"):
        if name in scores.coords:
            return scores[name].values.tolist()
    return list(range(scores.sizes["train"]))


def _stretched(picture: np.ndarray) -> np.ndarray:
    low, high = float(picture.min()), float(picture.max())
    return (picture - low) / ((high - low) or 1.0)


def _caption(scores: xr.DataArray, k: int) -> str:
    label = f"class {name_text(scores.label.values[k], 12)}\n" if "label" in scores.coords else ""
    return f"{name_text(_ids(scores)[k], 18)}\n{label}{float(scores.values[k]):+.1e}"
