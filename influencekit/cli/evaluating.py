"""`compare --evaluate`: run the evaluations of every seed, and say what they gave in plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influencekit.cli.summary import statistic

if TYPE_CHECKING:
    import xarray as xr

    from influencekit.interfaces import Estimator
    from influencekit.training.workload import Workload
    from influencekit.trajectory.trajectory import Trajectory

__all__ = ["Evaluating", "summarise_evaluation"]


class Evaluating:
    """What `compare` calls with the run and the scores of every seed; collects the results.

    Made before anything is trained: names, options and estimators are checked then.
    """

    def __init__(
        self, specs: str, methods: list[Estimator], subsets: str | None, query: str, workload: Workload
    ) -> None:
        from influencekit.evaluation.run import check, parse
        from influencekit.evaluation.scoring import estimators_of

        self._asked, self._query = parse(specs), query
        self._methods = estimators_of(methods)
        self._subsets = None if subsets is None else Path(subsets)
        check(self._asked, self._methods, workload)
        self._found: list[Mapping[str, xr.Dataset]] = []
        self._seeds: list[int] = []

    def __call__(self, seed: int, trajectory: Trajectory, scores: xr.Dataset) -> None:
        from influencekit.evaluation.run import evaluate

        folder = None if self._subsets is None else self._subsets / f"seed-{seed}"
        methods = list(self._methods.values())
        self._found.append(
            evaluate(trajectory, self._query, methods, self._asked, scores=scores, subsets=folder)
        )
        self._seeds.append(seed)

    def results(self, typed: Mapping[str, str]) -> dict[str, xr.Dataset]:
        """{evaluation as typed: its result [seed, ...]}, the estimators called as they were typed, too."""
        from influencekit.evaluation import over_seeds

        joined = over_seeds(self._found, self._seeds)
        return {
            spec: one.assign_coords(estimator=[typed[n] for n in one.estimator.values.tolist()])
            for spec, one in joined.items()
        }


def summarise_evaluation(result: xr.Dataset) -> dict[str, Any]:
    """One evaluation as plain numbers: `{"evaluation", its attrs, "estimators": {NAME: {figure: ...}}}`.

    A figure is the mean over queries and windows, then `{"mean", "std"}` over seeds; a list of such, one for
    each of `k`, where it depends on k. The score of `lds` has `low` and `high` besides: the interval of its
    mean over windows and seeds. `control`: the same without any estimator.
    """
    name = result.attrs["evaluation"]
    found: dict[str, Any] = {k: _plain(v) for k, v in result.attrs.items()}
    if "k" in result.coords and name != "mislabel-auc":
        found["k"] = [int(k) for k in result.k.values]
    if name == "mislabel-auc":
        found["accuracy"] = _over_seeds(result.accuracy)
    found["estimators"] = {
        each: _FIGURES[name](result.sel(estimator=each)) for each in result.estimator.values.tolist()
    }
    if name == "brittleness":
        found["control"] = {"effect": _over_seeds(result.control)}
        if "control_flips" in result:
            found["control"]["flips"] = _over_seeds(result.control_flips)
    if name == "mislabel-auc":
        found["control"] = {"auc": _over_seeds(result.control_auc)}
    return found


def _lds(one: xr.Dataset) -> dict[str, Any]:
    import numpy as np

    from influencekit.evaluation.bootstrap import interval

    score = _over_seeds(one["mean"])
    again = one.bootstrap.mean(("seed", "window"), skipna=True).values
    each = one.jackknife.mean("window", skipna=True)  # every seed has subsets of its own
    left_out = (each - each.mean("subset")).values.ravel()
    level, m = float(one.attrs["level"]), int(one.attrs["m"])
    low, high = interval(np.array(score["mean"]), again, left_out, level, m)
    return {"lds": {**score, "low": float(low), "high": float(high)}}


def _leave_k_out(one: xr.Dataset) -> dict[str, Any]:
    return {name: _over_seeds(one[name]) for name in ("pearson", "spearman", "size")}


def _brittleness(one: xr.Dataset) -> dict[str, Any]:
    figures = {}
    for removed in one.removed.values.tolist():
        figures[removed] = _over_seeds(one.effect.sel(removed=removed))
        if "flips" in one:
            figures[f"{removed}_flips"] = _over_seeds(one.flips.sel(removed=removed))
    return figures


def _mislabel(one: xr.Dataset) -> dict[str, Any]:
    return {name: _over_seeds(one[name]) for name in ("auc", "average_precision", "found")}


def _taylor(one: xr.Dataset) -> dict[str, Any]:
    return {name: _over_seeds(one[name]) for name in ("slope", "slope_from", "slope_to", "smooth_below")}


_FIGURES = {
    "lds": _lds,
    "leave-k-out": _leave_k_out,
    "brittleness": _brittleness,
    "mislabel-auc": _mislabel,
    "taylor": _taylor,
}


def _over_seeds(values: xr.DataArray) -> Any:
    """`{"mean", "std"}` over seeds of the mean over all else; a list of such along k."""
    if "k" in values.dims:
        return [_over_seeds(values.isel(k=j)) for j in range(values.sizes["k"])]
    rest = [d for d in values.dims if d != "seed"]
    return statistic(values.mean(rest, skipna=True).values)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
