"""The files of `compare --out` and of `estimate --out`: scores, rankings, agreement, plots."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influencekit.cli.drawing import draw, draw_evaluation
from influencekit.cli.output import save_dataset, to_json, write_csv
from influencekit.cli.summary import window_name
from influencekit.direction import better_in, ends

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xarray as xr

__all__ = ["evaluation_file", "save_comparison", "save_evaluations", "write_ranking"]


def save_comparison(
    result: xr.Dataset, found: dict[str, Any], pictures: np.ndarray | None, folder: Path
) -> None:
    """scores.zarr, ranking.csv, agreement.csv, compare.json and the plots, into a folder that is there."""
    save_dataset(result, folder / "scores.zarr")
    write_ranking(result, folder / "ranking.csv")
    write_csv(_agreement(result), folder / "agreement.csv")
    (folder / "compare.json").write_text(to_json(found), encoding="utf-8")
    draw(result, pictures, folder)


def save_evaluations(evaluations: Mapping[str, xr.Dataset], folder: Path) -> None:
    """evaluation-NAME.zarr, evaluation-NAME.csv with one row a figure, and its plot, for every evaluation."""
    for spec, result in evaluations.items():
        name = evaluation_file(spec)
        save_dataset(result, folder / f"{name}.zarr")
        write_csv(_figures(result), folder / f"{name}.csv")
        draw_evaluation(result, folder / f"{name}.png")


def evaluation_file(spec: str) -> str:
    """`lds:m=20` -> `evaluation-lds_m=20`."""
    return "evaluation-" + re.sub(r"[^\w.=+-]+", "_", spec)


def _figures(result: xr.Dataset) -> pd.DataFrame:
    """A row for every figure of every estimator and seed."""
    import numpy as np
    import pandas as pd

    names, rows = ["estimator", "seed", "query", "window", "removed", "k", "h"], []
    words = {n: result[n].values.tolist() for n in names if n in result.coords}
    words["window"] = [window_name(result, k) for k in range(result.sizes.get("window", 0))]
    for figure, values in result.data_vars.items():
        if {"estimator", "seed"} <= set(values.dims) <= {*names}:  # no curves, resamples or single subsets
            array, dims = values.values, [str(d) for d in values.dims]
            for place in np.ndindex(*array.shape):
                at = {d: words[d][k] if d in words else k for d, k in zip(dims, place, strict=True)}
                rows.append([figure, *(at.get(n, "") for n in names), array[place].item()])
    return pd.DataFrame(rows, columns=["figure", *names, "value"])


def _agreement(result: xr.Dataset) -> pd.DataFrame:
    """A row for every estimator, seed, query and window."""
    import pandas as pd

    values = result.agreement.transpose("estimator", "seed", "query", "window", "metric").values
    metrics, rows = result.metric.values.tolist(), []
    for e, name in enumerate(result.estimator.values.tolist()):
        for s, seed in enumerate(result.seed.values.tolist()):
            accuracy, seconds = float(result.accuracy[s]), float(result.seconds[e, s])
            for q, query in enumerate(result["query"].values.tolist()):
                for w in range(result.sizes["window"]):
                    where = [query, window_name(result, w), str(result.removal[w].item())]
                    rows.append([name, seed, *where, *values[e, s, q, w].tolist(), accuracy, seconds])
    head = ["estimator", "seed", "query", "window", "removal", *metrics, "accuracy", "seconds"]
    return pd.DataFrame(rows, columns=head)


def write_ranking(result: xr.Dataset, path: Path) -> None:
    """One row an example, seed, query and window; the most harmful by the first estimator come first.

    Where neither way of the query is better, those whose removal lowers it most.
    What `estimate` retrained follows: its effect, empty where there is none, and 1 for what was removed.
    """
    import pandas as pd

    scores = result.influence.transpose("seed", "query", "window", "estimator", "train").values
    names, first = result.estimator.values.tolist(), ends(better_in(result.attrs))[0][1]
    frames = []
    for s, seed in enumerate(result.seed.values.tolist()):
        of_seed = {name: result[name].values[s] for name in ("example", "label") if name in result.coords}
        for q, query in enumerate(result["query"].values.tolist()):
            for w in range(result.sizes["window"]):
                where = {"seed": seed, "query": query, "window": window_name(result, w)}
                frame = pd.DataFrame(of_seed | where | dict(zip(names, scores[s, q, w], strict=True)))
                if "retrained" in result:
                    change = pd.Series(result.retrained.values[q, w], dtype=object)
                    frame["retrained"] = change.where(change.notna(), "")
                if "removed" in result:
                    frame["removed"] = result.removed.values
                # stable, and not a number comes last
                frames.append(frame.iloc[(-first * scores[s, q, w, 0]).argsort(kind="stable")])
    write_csv(pd.concat(frames), path)
