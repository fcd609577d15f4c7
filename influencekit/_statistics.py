"""Means and deviations over seeds: as numbers, for JSON, and as text, for tables."""

from __future__ import annotations

import math
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

_MEANT = {"estimator", "seed", "query", "window"}  # dimensions that a figure of an estimator may have


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
    """{estimator: {figure: `over_seeds`}} of these variables of a result.

    Without `names`: of all variables with the dimension `estimator` and none but seed, query and window.
    """
    if names is None:
        every = result.data_vars.items()
        names = [str(n) for n, v in every if "estimator" in v.dims and {*v.dims} <= _MEANT]
    return {
        each: {name: over_seeds(result[name].sel(estimator=each)) for name in names}
        for each in result.estimator.values.tolist()
    }


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
