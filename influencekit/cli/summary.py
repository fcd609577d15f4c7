"""What `compare` found, as plain numbers: the structure of its JSON, from which the table is printed, too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from influencekit._statistics import statistic

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["asked_of", "beside", "summarise", "undefined", "window_name", "without_nan"]


def summarise(result: xr.Dataset) -> dict[str, Any]:
    """`{"workload", "setting", "seeds", "reference", "accuracy": {...}, "estimators": {NAME: {...}}}`.

    Each metric is the mean over queries and windows, then its mean and (population) deviation over seeds;
    `seconds` is the mean over seeds. With several windows or queries, `windows` has the same for each window.
    Undefined agreements (constant scores) are left out of the means; NaN where nothing is left.

    `intercept`, where an estimator is for sets: `{NAME: what is added to a sum of its scores}`.
    `ceiling`, where it was asked for: `moved`, `runs`, `note`, `loo_again` (the means of a row of the table),
    and of every metric the `ceiling` and `estimators: {NAME: estimate / ceiling}`.
    `cross_seed`: `{NAME: {METRIC: mean over pairs of seeds}}`, or `{"absent": why}`.
    """
    found: dict[str, Any] = {
        "workload": result.attrs["workload"],
        "setting": result.attrs["setting"],
        "seeds": [int(s) for s in result.seed.values],
        **{k: v for k, v in result.attrs.items() if k in ("average", "average_states")},
        "reference": result.attrs["reference"],
        "accuracy": statistic(result.accuracy.values),
        "estimators": _estimators(result),
        **beside(result),
    }
    if result.sizes["window"] > 1 or result.sizes["query"] > 1:
        found["windows"] = [
            {
                "window": window_name(result, k),
                "start": int(result.start[k]),
                "stop": int(result.stop[k]),
                "removal": str(result.removal[k].item()),
                "estimators": _estimators(result.isel(window=[k])),
                **beside(result.isel(window=[k])),
            }
            for k in range(result.sizes["window"])
        ]
    return found


def beside(result: xr.Dataset) -> dict[str, Any]:
    """The entries `intercept`, `ceiling` and `cross_seed` of a comparison, or of one of its windows; none
    without them."""
    found: dict[str, Any] = {}
    metrics, names = result.metric.values.tolist(), result.estimator.values.tolist()
    if "intercept" in result:
        added = result.intercept.mean(("query", "window"))
        each = {name: added.sel(estimator=name).values for name in names}
        found["intercept"] = {name: statistic(values) for name, values in each.items() if values.any()}
    if "ceiling" in result:
        from influencekit._verbs.compare_ceiling import of_ceiling

        fraction = of_ceiling(result)
        again = _by_metric(result.loo_again.mean("repeat", skipna=True))
        found["ceiling"] = {
            "moved": result.attrs["ceiling_moved"],
            "runs": int(result.attrs["ceiling_runs"]),
            "note": result.attrs["ceiling_note"],
            "icc": statistic(result.icc.mean(("query", "window"), skipna=True).values),
            "loo_again": {
                **again,
                "accuracy": statistic(result.again_accuracy.mean("repeat", skipna=True).values),
                "seconds": float(result.again_seconds.sum("repeat", skipna=True, min_count=1).mean()),
            },
            "ceiling": _by_metric(result.ceiling),
            "estimators": {
                name: {m: statistic(fraction.sel(estimator=name, metric=m).values) for m in metrics}
                for name in names
                if name != result.attrs["reference"]
            },
        }
    if "cross_agreement" in result:
        mean = result.cross_agreement.mean(("query", "window"), skipna=True)
        found["cross_seed"] = {
            name: {m: float(mean.sel(estimator=name, metric=m)) for m in metrics} for name in names
        }
    elif "cross_note" in result.attrs:
        found["cross_seed"] = {"absent": result.attrs["cross_note"]}
    return found


def _by_metric(values: xr.DataArray) -> dict[str, Any]:
    """{metric: mean and deviation over seeds of the mean over queries and windows}."""
    mean = values.mean(("query", "window"), skipna=True)
    return {m: statistic(mean.sel(metric=m).values) for m in values.metric.values.tolist()}


def window_name(result: xr.Dataset, k: int) -> str:
    """A window as `--window` takes it: `step:10-40`."""
    return f"step:{int(result.start[k])}-{int(result.stop[k])}"


def asked_of(attrs: dict[str, Any]) -> str:
    """` of ema:decay=0.99 (40 states, 1 to 40)`: the model that the query is asked of, if it is not plain."""
    states = f" ({attrs['average_states']})" if "average_states" in attrs else ""
    return f" of {attrs['average']}{states}" if "average" in attrs else ""


def undefined(result: xr.Dataset) -> int:
    """How many agreements (of a seed, query, window and estimator) are undefined."""
    return int(result.agreement.isel(metric=0).isnull().sum())


def without_nan(value: Any) -> Any:
    """The same structure with None where a float is not a number, which JSON cannot say."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _estimators(result: xr.Dataset) -> dict[str, dict[str, Any]]:
    found = {}
    for name in result.estimator.values.tolist():
        each = result.agreement.sel(estimator=name).mean(("query", "window"), skipna=True)
        statistics: dict[str, Any] = {
            metric: statistic(each.sel(metric=metric).values) for metric in result.metric.values.tolist()
        }
        found[name] = {**statistics, "seconds": float(result.seconds.sel(estimator=name).mean())}
    return found
