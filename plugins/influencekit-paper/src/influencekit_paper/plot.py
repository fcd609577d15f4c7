"""Influence over time: patterns, stages of training, and how alike the stages rank the examples."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from influencekit.errors import InputError
from influencekit.extend import better_in
from influencekit.plot import COLOURS, diverging, name_text, new_figure, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pattern_lines", "pattern_map", "stage_matrix", "stages"]

_NAMES = {
    "early": "Early influencers",
    "late": "Late bloomers",
    "stable": "Stable",
    "fluctuating": "Highly fluctuating",
}
_COLOUR = dict(zip(_NAMES, (COLOURS[1], COLOURS[0], COLOURS[2], COLOURS[3]), strict=True))
_LABEL = "standardised influence"


def pattern_lines(
    found: xr.Dataset,
    examples: Sequence[Hashable] | None = None,
    figure: Figure | None = None,
) -> list[Axes]:
    """Influence over time, a panel for each pattern: all its examples, their centroid, and some by name.

    `found` is what `patterns.patterns` returns, of one run and query. `examples` are ids (coordinate `train`)
    to be drawn as labelled lines, each in its pattern's panel; unless you say, two of each pattern: those
    that are farthest from the centroid of all. Thin grey lines are the others, the thick one is the centroid.
    A title has the percentage of a pattern, and what it would be by the p-value alone (without `change`).
    """
    from matplotlib.collections import LineCollection

    found = _one(found, "pattern_lines")
    z = found.standardised.transpose("window", "train").values
    pattern, ids = found.pattern.values, _ids(found)
    chosen = _chosen(found, z, pattern, ids, examples)
    figure = figure if figure is not None else new_figure(9.2, 6.0)
    axes = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
    when = np.arange(len(z))
    for ax, (kind, title) in zip(axes, _NAMES.items(), strict=True):
        mine = np.flatnonzero(pattern == kind)
        ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        lines = [np.stack([when, z[:, j]], 1) for j in mine]
        ax.add_collection(LineCollection(lines, color="0.8", linewidth=0.6, zorder=1))
        for style, j in zip(("--", ":", "-.") * len(ids), (j for j in mine if j in chosen), strict=False):
            ax.plot(when, z[:, j], style, color="0.15", linewidth=1.3, label=name_text(ids[j]), zorder=2)
        centroid = found.centroid.sel(kind=kind).values
        ax.plot(when, centroid, color=_COLOUR[kind], linewidth=3, label="centroid", zorder=3)
        percent, by_p = (100 * float(found[name].sel(kind=kind)) for name in ("share", "share_by_p"))
        alone = f" ({by_p:.1f} % by p alone)" if found.attrs["change"] else ""
        ax.set_title(f"{title}: {percent:.1f} %{alone}", color=_COLOUR[kind])
        if len(mine):
            ax.legend(frameon=False, fontsize="small", loc="lower center", ncols=3)
        else:
            ax.text(0.5, 0.6, "no example", ha="center", color="0.4", transform=ax.transAxes)
        whole_numbers(ax)
    low, high = float(z.min()), float(z.max())
    margin = 0.05 * (high - low) or 1.0
    axes[0].set(xlim=(0, len(z) - 1), ylim=(low - 4 * margin, high + margin))  # the legends are below
    figure.supxlabel("epoch")
    figure.supylabel(f"{_LABEL} (deviations from the epoch's mean)")
    return list(axes)


def pattern_map(found: xr.Dataset, ax: Axes | None = None) -> Axes:
    """All examples by epoch as colours, sorted by pattern, then by their mean.

    `found` is what `patterns.patterns` returns, of one run and query. Blue = more helpful than the epoch's
    mean, orange = less, by the query's own direction; where neither way of it is better, green = removal
    raises it more than the mean, pink = less. The scale ends at the 99th percentile of the magnitudes, which
    arrows say.
    """
    from matplotlib.lines import Line2D

    found = _one(found, "pattern_map")
    z = found.standardised.transpose("window", "train").values.T
    pattern = found.pattern.values
    rank = np.array([list(_NAMES).index(p) for p in pattern])
    order = np.lexsort((z.mean(1), rank))
    ax = ax if ax is not None else new_figure(6.4, 6.4).subplots()
    top = float(np.quantile(np.abs(z), 0.99)) or 1.0
    colours = diverging(better_in(found.attrs))
    image = ax.imshow(z[order], aspect="auto", cmap=colours, vmin=-top, vmax=top, interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label=_LABEL, extend="both", shrink=0.8)
    counts = np.bincount(rank, minlength=len(_NAMES))
    ends = counts.cumsum()
    here = [k for k in range(len(_NAMES)) if counts[k]]
    ax.hlines(ends[here][:-1] - 0.5, -0.5, z.shape[1] - 0.5, color="black", linewidth=1)
    middles = _apart([ends[k] - (counts[k] + 1) / 2 for k in here], 0.085 * len(z), len(z) - 1)
    across = ax.get_yaxis_transform()
    for k, middle in zip(here, middles, strict=True):
        kind, name = list(_NAMES.items())[k]
        low, high = ends[k] - counts[k] - 0.5, ends[k] - 0.5
        edge = Line2D([-0.025] * 2, [low, high], color=_COLOUR[kind], linewidth=5, solid_capstyle="butt")
        ax.add_artist(edge).set(transform=across, clip_on=False)
        text = f"{name}\n{counts[k]}"
        ax.text(-0.05, middle, text, color=_COLOUR[kind], ha="right", va="center", transform=across)
    ax.set(xlabel="epoch", yticks=[])
    whole_numbers(ax)
    return ax


def stages(found: xr.Dataset, ax: Axes | None = None) -> Axes:
    """The loss of every epoch, the decay fitted to it, and the stages that its residuals divide.

    `found` is what `stages.stages` returns.
    """
    ax = ax if ax is not None else new_figure(6.4, 3.6).subplots()
    when = np.arange(found.sizes["epoch"])
    ax.plot(when, found.loss, color=COLOURS[0], marker="o", markersize=4, label="training loss")
    ax.plot(when, found.fitted, color=COLOURS[1], linestyle="--", label="exponential decay")
    for name, start, stop in zip(found.stage.values, found.start.values, found.stop.values, strict=True):
        ax.text((start + stop - 1) / 2, 1.02, name, ha="center", transform=ax.get_xaxis_transform())
        if start:
            ax.axvline(start - 0.5, color="0.5", linewidth=0.8)
    ax.set(xlabel="epoch", ylabel="mean loss", xlim=(-0.5, len(when) - 0.5))
    whole_numbers(ax)
    ax.legend(frameon=False)
    return ax


def stage_matrix(agreement: xr.DataArray, ax: Axes | None = None) -> Axes:
    """Kendall's tau-b between stages as a coloured, numbered matrix.

    `agreement` is what `stages.stage_agreement` returns; over further dimensions (`seed`, `query`) the mean
    is shown and, below it, the standard deviation. NaN is left empty.
    """
    if not {"stage", "other"} <= set(agreement.dims):
        raise InputError(f"stage_matrix: expected agreement [stage, other], got {dict(agreement.sizes)}")
    more = [d for d in agreement.dims if d not in ("stage", "other") and agreement.sizes[d] > 1]
    rest = [d for d in agreement.dims if d not in ("stage", "other")]
    mean = agreement.mean(rest).transpose("stage", "other").values
    deviation = agreement.std(rest).transpose("stage", "other").values
    names = [str(n) for n in agreement.stage.values]
    ax = ax if ax is not None else new_figure(1.1 + 0.95 * len(names), 0.6 + 0.85 * len(names)).subplots()
    image = ax.imshow(mean, cmap=diverging(), vmin=-1, vmax=1)
    ax.figure.colorbar(
        image,
        ax=ax,
        label=agreement.attrs.get("long_name", "Kendall's tau-b"),
        shrink=0.9,
        ticks=[-1, -0.5, 0, 0.5, 1],
    )
    for i, j in zip(*np.nonzero(np.isfinite(mean)), strict=True):
        text = f"{mean[i, j]:.2f}" + (f"\n± {deviation[i, j]:.2f}" if more and i != j else "")
        colour = "white" if abs(mean[i, j]) > 0.45 else "black"
        ax.text(j, i, text, ha="center", va="center", color=colour)
    ticks = np.arange(len(names))
    slant = 30 if max(map(len, names)) > 8 else 0
    ax.set_xticks(ticks, names, rotation=slant)
    ax.set_yticks(ticks, names)
    ax.tick_params(length=0)
    return ax


def _one(found: xr.Dataset, who: str) -> xr.Dataset:
    """Without dimensions of length one, such as a single query."""
    more = {d: n for d, n in found.standardised.sizes.items() if d not in ("window", "train")}
    if any(n > 1 for n in more.values()):
        raise InputError(
            f"{who}: expected the patterns of one run and query, [window, train], got "
            f"{dict(found.standardised.sizes)}; select one with .isel"
        )
    return found.squeeze(list(more))


def _apart(positions: list[float], gap: float, top: float) -> list[float]:
    """Ascending positions, moved so that they are at least `gap` apart and none is above `top`."""
    moved = np.array(positions)
    for k in range(1, len(moved)):
        moved[k] = max(moved[k], moved[k - 1] + gap)
    for k in reversed(range(len(moved))):
        moved[k] = min(moved[k], top - gap * (len(moved) - 1 - k))
    return moved.tolist()


def _ids(found: xr.Dataset) -> list[Hashable]:
    return found["train"].values.tolist() if "train" in found.coords else list(range(found.sizes["train"]))


def _chosen(
    found: xr.Dataset,
    z: np.ndarray,
    pattern: np.ndarray,
    ids: Sequence[Hashable],
    examples: Sequence[Hashable] | None,
) -> set[int]:
    """Positions of the examples to be drawn by name."""
    if examples is not None:
        unknown = [e for e in examples if e not in ids]
        if unknown:
            raise InputError(
                f"pattern_lines: no example {unknown[0]!r} in these patterns; they have {ids[0]!r} ..."
            )
        return {ids.index(e) for e in examples}
    far = np.linalg.norm(z - z.mean(1, keepdims=True), axis=0) / math.sqrt(len(z))
    order = np.argsort(-far, kind="stable")
    return {int(j) for kind in _NAMES for j in [i for i in order if pattern[i] == kind][:2]}
