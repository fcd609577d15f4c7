"""The PNG plots of a result: which there are, and what they are called."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influencekit.direction import better_in, written

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

__all__ = ["draw"]


def draw(result: xr.Dataset, pictures: np.ndarray | None, folder: Path) -> list[str]:
    """Draw what can be drawn of a result [estimator, seed, query, window, train]; the names of the files.

    `agreement.png` where there is ground truth; `extremes-NAME.png` for the first seed, where the examples
    are pictures; `timeline-NAME.png` where there are several windows. Several queries are averaged.
    """
    from influencekit import plot

    drawn: list[str] = []

    def save(axes: Any, name: str, title: str | None = None) -> None:
        figure = (axes[0] if isinstance(axes, list) else axes).figure
        if title:
            figure.suptitle(title)
        figure.savefig(folder / name)
        drawn.append(name)

    names = result.estimator.values.tolist()
    if "agreement" in result and len(names) > 1:
        save(plot.agreement(result), "agreement.png")
    first = result.isel(seed=0)
    better = written(better_in(result.attrs))
    scores = first.influence.mean("query", skipna=False)
    some = "" if result.sizes["seed"] == 1 else f", seed {int(first.seed)}"
    several = result.sizes["window"] > 1
    for name in names:
        file = re.sub(r"[^\w.=-]+", "_", name)
        each = scores.sel(estimator=name).assign_attrs(better)
        if pictures is not None:
            mean = f", mean of {result.sizes['window']} windows" if several else ""
            axes = plot.extremes(each.mean("window", skipna=False).assign_attrs(better), pictures)
            save(axes, f"extremes-{file}.png", f"{result.attrs['workload']}: {name}{some}{mean}")
        if several:
            line = plot.timeline(each.transpose("window", "train"))
            save(line, f"timeline-{file}.png", f"{result.attrs['workload']}: {name}{some}")
    return drawn
