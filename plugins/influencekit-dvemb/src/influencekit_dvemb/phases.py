"""Phases of a training run: how much a removal at each step still matters at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from influencekit import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["phases", "plot_phases"]

_RISE = 1.5  # of the magnitude above the basin's floor; less is no phase of its own


def phases(found: xr.Dataset, bins: int = 100) -> xr.Dataset:
    """Mean size of an occurrence's effect over training, and where warm-up, basin and ascent meet.

    `found` is what `scores` or `ik.contributions` gave, of one query at the end of the run; C [step, slot].

        magnitude [bin] = mean |C| over the occurrences of the bin's steps

    The floor of the basin is the least magnitude. Warm-up lasts until the last bin before the floor that is
    above the geometric mean of the floor and the largest magnitude before it; the ascent begins in the first
    bin after the floor that is above that of the floor and the largest one after it. The coordinate `phase`
    [bin] names them; a rise of less than half the floor is no phase. Coordinates: steps `start`, `stop`.
    Errors: fewer steps than bins, several queries.
    """
    if found.sizes["query"] != 1:
        raise InputError(f"phases: expected one query, got {found.sizes['query']}; take .isel(query=[k])")
    steps = found.sizes["step"]
    if not 3 <= bins <= steps:
        raise InputError(f"phases: bins must be from 3 to the number of steps, {steps}; got {bins}")
    C = np.abs(found.contribution.isel(query=0, evaluation=-1).values).astype(float)
    real = found.batch.values >= 0
    edges = np.linspace(0, steps, bins + 1).round().astype(int)
    pairs = list(zip(edges[:-1], edges[1:], strict=True))
    m = np.array([C[a:b][real[a:b]].mean() for a, b in pairs])
    low = int(m.argmin())
    phase = np.full(bins, "basin", dtype="<U7")
    for part, name in ((slice(0, low), "warm-up"), (slice(low + 1, bins), "ascent")):
        if not len(m[part]) or m[part].max() < _RISE * m[low]:
            continue
        above = np.flatnonzero(m[part] > np.sqrt(m[part].max() * m[low]))
        if name == "warm-up":
            phase[: above[-1] + 1] = name
        else:
            phase[low + 1 + above[0] :] = name
    return xr.Dataset(
        {"magnitude": ("bin", m)},
        coords={"start": ("bin", edges[:-1]), "stop": ("bin", edges[1:]), "phase": ("bin", phase)},
        attrs=found.attrs,
    )


def plot_phases(found: xr.Dataset, ax: Axes | None = None, label: str = "data value embedding") -> Axes:
    """The magnitudes of `phases` over the steps, on a logarithmic scale, the phases shaded and named."""
    from matplotlib.figure import Figure

    ax = ax if ax is not None else Figure(figsize=(7.2, 3.6), layout="constrained", dpi=120).subplots()
    start, stop, m = found.start.values, found.stop.values, found.magnitude.values
    for name, colour, side in (
        ("warm-up", "#E69F00", "left"),
        ("basin", "#0072B2", "center"),
        ("ascent", "#009E73", "right"),
    ):
        mine = found.phase.values == name
        if mine.any():
            first, last = start[mine][0], stop[mine][-1]
            ax.axvspan(first, last, color=colour, alpha=0.12, linewidth=0)
            x = {"left": first, "center": (first + last) / 2, "right": last}[side]
            ax.text(x, 1.01, name, color=colour, transform=ax.get_xaxis_transform(), ha=side, va="bottom")
    ax.plot((start + stop) / 2, m, color="#0072B2", linewidth=1.6, label=label)
    ax.set_yscale("log")
    ax.set(xlim=(0, stop[-1]), xlabel="step of the removal", ylabel="mean size of the effect")
    return ax
