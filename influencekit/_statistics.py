"""Means and deviations over seeds: as numbers, for JSON, and as text, for tables."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

__all__ = [
    "Statistic",
    "format_percent",
    "format_statistic",
    "of_estimators",
    "over_seeds",
    "several_seeds",
    "statistic",
]

Statistic = dict[str, float]

_MEANT = {"estimator", "seed", "query", "window"}  # dimensions that are no columns of a table
_COLUMNS = 12  # the most that one variable gets by itself


def statistic(values: np.ndarray) -> Statistic:
    """Mean and population deviation of the values that are numbers; NaN where none is."""
    known = values[~(values != values)]
    if not len(known):
        return {"mean": math.nan, "std": math.nan}
    return {"mean": float(known.mean()), "std": float(known.std())}


def over_seeds(values: xr.DataArray) -> Any:
    """`statistic` over `seed` of the mean over all other dimensions; a list of such along `k`."""
    if "k" in values.dims:
        return [over_seeds(values.isel(k=j)) for j in range(values.sizes["k"])]
    rest = [d for d in values.dims if d != "seed"]
    return statistic(values.mean(rest, skipna=True).values)


def several_seeds(result: xr.Dataset) -> bool:
    """Whether a result has deviations to show."""
    return bool(result.sizes.get("seed", 1) > 1)


def of_estimators(result: xr.Dataset, names: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """{estimator: {figure: `over_seeds`}} of these variables; without `names`, of the `_columns`."""
    figures = _columns(result) if names is None else {name: result[name] for name in names}
    return {
        each: {name: over_seeds(values.sel(estimator=each)) for name, values in figures.items()}
        for each in result.estimator.values.tolist()
    }


def _columns(result: xr.Dataset) -> dict[str, xr.DataArray]:
    """The figures that a result shows by itself, sorted by name: stores do not keep the order of variables.

    Every numeric variable with the dimension `estimator` is one; with dimensions of its own, one for every
    label, such as "precision k=2". A variable with more than 12 labels is left out, or, where all have more,
    its mean is taken.
    """
    numeric = {
        str(n): v for n, v in result.data_vars.items() if "estimator" in v.dims and v.dtype.kind in "fiub"
    }
    figures = {name: numeric[name].astype(float) for name in sorted(numeric)}
    own = {name: [d for d in v.dims if d not in _MEANT] for name, v in figures.items()}
    shown = [n for n, v in figures.items() if math.prod(v.sizes[d] for d in own[n]) <= _COLUMNS]
    if not shown:
        return {name: v.mean(own[name]) for name, v in figures.items()}
    found = {}
    for name in shown:
        for place in product(*(range(figures[name].sizes[d]) for d in own[name])):
            at = dict(zip(own[name], place, strict=True))
            label = "".join(f" {d}={figures[name][d].values[j]}" for d, j in at.items())
            found[name + label] = figures[name].isel(at)
    return found


def format_statistic(value: Statistic, deviation: bool) -> str:
    """`0.912 ± 0.034`, `0.912` without the deviation, or `-` where it is undefined."""
    mean, std = value["mean"], value["std"]
    if math.isnan(mean):
        return "-"
    return f"{mean:.3f} ± {std:.3f}" if deviation else f"{mean:.3f}"


def format_percent(value: Statistic, deviation: bool) -> str:
    """`98.4 ± 0.5 %`, or `-` where it is undefined."""
    mean, std = 100 * value["mean"], 100 * value["std"]
    if math.isnan(mean):
        return "-"
    return f"{mean:.1f} ± {std:.1f} %" if deviation else f"{mean:.1f} %"
