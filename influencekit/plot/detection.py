"""How well estimators find corrupted examples: all of them on one plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from influencekit._labelled import dataset_of
from influencekit.errors import InputError
from influencekit.plot.style import COLOURS, LINES, axes_of, line_look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["detection", "precision_recall"]


def detection(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The fraction of the corrupted examples that is found by looking at the k most suspicious, for every k.

    `result` is what `evaluation.detection` returns: `recall` [k], with a line for every member of one further
    dimension (`estimator`, `window`, whichever it is). Over `seed` and `query` the mean is drawn, and a band
    of one standard deviation. Grey: the best that can be (solid) and chance (dotted). The legend has the AUC.

    Example:

        >>> import numpy as np
        >>> import xarray as xr
        >>> from influencekit import plot
        >>> from influencekit.evaluation import detection
        >>> scores = xr.DataArray(np.arange(10.0), dims="train")
        >>> found = detection(scores, np.arange(10) < 3)
        >>> axes = plot.detection(found)
        >>> len(axes.get_lines()) > 0
        True
    """
    _found("detection", result)
    ax = axes_of(ax, 8.0, 4.2)
    n = result.sizes["k"]
    fraction = float(result.corrupted.mean()) / n
    looked = np.concatenate([[0], result.k.values / n])
    ax.plot([0, fraction, 1], [0, 1, 1], color="0.6", linewidth=1, zorder=0)
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":", zorder=0)
    for name, look, one in _lines(result, "detection"):
        recall, spread = _spread(one.recall)
        recall, spread = (np.concatenate([[0], v]) for v in (recall, spread))
        label = f"{name}\nAUC {_number(one.auc)}"
        ax.plot(looked, recall, **look, label=label)
        if one.recall.ndim > 1:
            low, high = np.clip([recall - spread, recall + spread], 0, 1)
            ax.fill_between(looked, low, high, color=look["color"], alpha=0.15, linewidth=0)
    ax.set(xlim=(0, 1), ylim=(0, 1.03))
    ax.set(
        xlabel="fraction of the examples looked at, most suspicious first",
        ylabel="fraction of the corrupted found",
    )
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def precision_recall(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Precision against recall among the k most suspicious, for every k; dimensions as in `detection`.

    Over seeds both are means at the same k. Grey, dotted: chance. The legend has the average precision. The
    steep part on the left is of few examples, and jumps: it says less than the rest.

    Example:

        >>> import numpy as np
        >>> import xarray as xr
        >>> from influencekit import plot
        >>> from influencekit.evaluation import detection
        >>> scores = xr.DataArray(np.arange(10.0), dims="train")
        >>> found = detection(scores, np.arange(10) < 3)
        >>> axes = plot.precision_recall(found)
        >>> len(axes.get_lines()) > 0
        True
    """
    _found("precision_recall", result)
    ax = axes_of(ax, 8.0, 4.2)
    fraction = float(result.corrupted.mean()) / result.sizes["k"]
    ax.axhline(fraction, color="0.6", linewidth=1, linestyle=":", zorder=0)
    for name, look, one in _lines(result, "precision_recall"):
        precision, recall = _spread(one.precision)[0], _spread(one.recall)[0]
        label = f"{name}\nAP {_number(one.average_precision)}"
        ax.plot(recall, precision, **look, label=label)
    ax.set(xlim=(0, 1.02), ylim=(0, 1.03), xlabel="recall", ylabel="precision")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def _found(who: str, result: Any) -> None:
    """Errors: not what `evaluation.detection` returned."""
    names = ("recall", "precision", "auc", "average_precision", "corrupted")
    dataset_of(who, "what evaluation.detection(...) gives", result, names, dims=("k",))


def _lines(result: xr.Dataset, who: str) -> list[tuple[str, dict[str, Any], xr.Dataset]]:
    """(name, look, its part of the result) of every line, the first the widest: none hides another."""
    result = result.squeeze([d for d in result.dims if d != "k" and result.sizes[d] == 1])
    more = [str(d) for d in result.auc.dims if d not in ("seed", "query")]
    if len(more) > 1:
        raise InputError(
            f"{who}: expected one dimension of lines, got {' and '.join(more)}; select with .isel"
        )
    if more:
        names = [str(n) for n in result[more[0]].values]  # numbers where the dimension has no labels
        if more[0] not in result.coords:
            names = [f"{more[0]} {n}" for n in names]
        parts = [result.isel({more[0]: k}) for k in range(len(names))]
    else:
        names = [str(result.coords["estimator"].item()) if "estimator" in result.coords else "scores"]
        parts = [result]
    if len(names) > len(COLOURS) * len(LINES):
        raise InputError(f"{who}: {len(names)} lines are too many to tell apart; select some with .isel")
    return [
        (name, line_look(k, len(names)), part)
        for k, (name, part) in enumerate(zip(names, parts, strict=True))
    ]


def _spread(curve: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    rest = [d for d in curve.dims if d != "k"]
    return curve.mean(rest).values, curve.std(rest).values


def _number(value: xr.DataArray) -> str:
    return f"{float(value.mean()):.3f}" + (f" ± {float(value.std()):.3f}" if value.size > 1 else "")
