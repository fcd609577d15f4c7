"""`compare --evaluate`: make evaluations by spec, run them for every seed, print and save what they gave."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from influencekit.cli.console import print_table, say
from influencekit.cli.formats import save_dataset, write_csv
from influencekit.cli.summary import window_name

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from influencekit._training.workload import Workload
    from influencekit._trajectory.trajectory import Trajectory
    from influencekit.interfaces import Estimator, Query

__all__ = ["Evaluations", "evaluation_file", "print_evaluations", "save_evaluations"]


class Evaluations:
    """What `compare` calls with the run and the scores of every seed; collects the results.

    Made before anything is trained: names, options and estimators are checked then.
    """

    def __init__(
        self, specs: str, methods: list[Estimator], subsets: str | None, query: Query, workload: Workload
    ) -> None:
        from influencekit.evaluation.run import check, evaluations_of
        from influencekit.evaluation.scoring import estimators_of

        self._asked, self._query = evaluations_of(specs), query
        self._methods = methods
        self._subsets = None if subsets is None else Path(subsets)
        check(self._asked, estimators_of(methods), workload)
        self._found: list[Mapping[str, xr.Dataset]] = []
        self._seeds: list[int] = []

    def __call__(self, seed: int, trajectory: Trajectory, scores: xr.Dataset) -> None:
        from influencekit.evaluation import evaluate

        folder = None if self._subsets is None else self._subsets / f"seed-{seed}"
        found = evaluate(trajectory, self._asked, self._query, self._methods, scores=scores, subsets=folder)
        self._found.append(found)
        self._seeds.append(seed)

    def results(self, typed: Mapping[str, str]) -> dict[str, xr.Dataset]:
        """{evaluation as typed: its result [seed, ...]}, the estimators called as they were typed, too."""
        from influencekit.evaluation import over_seeds

        joined = over_seeds(self._found, self._seeds)
        return {
            spec: one.assign_coords(estimator=[typed[n] for n in one.estimator.values.tolist()])
            for spec, one in joined.items()
        }


def print_evaluations(results: Mapping[str, xr.Dataset]) -> None:
    """A title, a table and what is to be said of it, for every result."""
    from influencekit.evaluation import evaluation_of

    names = [one.attrs["evaluation"] for one in results.values()]
    for spec, one in results.items():
        title, rows, notes = evaluation_of(one).table(one)
        if names.count(one.attrs["evaluation"]) > 1:  # told apart by their options
            title += f" ({spec})"
        say()
        print_table(rows, title)
        if "left_out" in one.attrs:
            notes = (*notes, f"left out: {one.attrs['left_out']}")
        for note in notes:
            say(note)


def save_evaluations(results: Mapping[str, xr.Dataset], folder: Path, escape_formulas: bool = False) -> None:
    """evaluation-NAME.zarr, evaluation-NAME.csv with one row a figure, and its plot, for every result."""
    from influencekit.evaluation import evaluation_of

    for spec, result in results.items():
        name = evaluation_file(spec)
        save_dataset(result, folder / f"{name}.zarr")
        write_csv(_figures(result), folder / f"{name}.csv", escape_formulas)
        if (figure := evaluation_of(result).plot(result)) is not None:
            figure.savefig(folder / f"{name}.png")


def evaluation_file(spec: str) -> str:
    """`lds:m=20` -> `evaluation-lds_m=20`."""
    return "evaluation-" + re.sub(r"[^\w.=+-]+", "_", spec)


def _figures(result: xr.Dataset) -> pd.DataFrame:
    """A row for every figure of every estimator and seed."""
    import numpy as np

    from influencekit.cli.frames import pandas

    pd = pandas()
    names, rows = ["estimator", "seed", "query", "window", "removed", "k", "h", "fraction"], []
    words = {n: result[n].values.tolist() for n in names if n in result.coords}
    words["window"] = [window_name(result, k) for k in range(result.sizes.get("window", 0))]
    for figure, values in result.data_vars.items():
        if {"estimator", "seed"} <= set(values.dims) <= {*names}:  # no curves, resamples or single subsets
            array, dims = values.values, [str(d) for d in values.dims]
            for place in np.ndindex(*array.shape):
                at = {d: words[d][k] if d in words else k for d, k in zip(dims, place, strict=True)}
                rows.append([figure, *(at.get(n, "") for n in names), array[place].item()])
    return pd.DataFrame(rows, columns=["figure", *names, "value"], dtype=object)  # counts stay whole
