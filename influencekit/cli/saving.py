"""The files of `compare --out` and of `estimate --out`: scores, rankings, agreement, plots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influencekit.cli.drawing import draw
from influencekit.cli.output import save_dataset, to_json, write_csv
from influencekit.cli.summary import window_name
from influencekit.direction import better_in, ends

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

__all__ = ["save_comparison", "write_ranking"]


def save_comparison(
    result: xr.Dataset, found: dict[str, Any], pictures: np.ndarray | None, folder: Path
) -> None:
    """scores.zarr, ranking.csv, agreement.csv, compare.json and the plots, into a folder that is there."""
    save_dataset(result, folder / "scores.zarr")
    write_ranking(result, folder / "ranking.csv")
    metrics = result.metric.values.tolist()
    head = ["estimator", "seed", "query", "window", "removal", *metrics, "accuracy", "seconds"]
    write_csv(folder / "agreement.csv", head, _agreement(result))
    (folder / "compare.json").write_text(to_json(found), encoding="utf-8")
    draw(result, pictures, folder)


def _agreement(result: xr.Dataset) -> Iterator[list[Any]]:
    values = result.agreement.transpose("estimator", "seed", "query", "window", "metric").values
    for e, name in enumerate(result.estimator.values.tolist()):
        for s, seed in enumerate(result.seed.values.tolist()):
            accuracy, seconds = float(result.accuracy[s]), float(result.seconds[e, s])
            for q, query in enumerate(result["query"].values.tolist()):
                for w in range(result.sizes["window"]):
                    where = [query, window_name(result, w), str(result.removal[w].item())]
                    yield [name, seed, *where, *values[e, s, q, w].tolist(), accuracy, seconds]


def write_ranking(result: xr.Dataset, path: Path) -> None:
    """One row an example, seed, query and window; the most harmful by the first estimator come first.

    Where neither way of the query is better, those whose removal lowers it most.
    What `estimate` retrained follows: its effect, empty where there is none, and 1 for what was removed.
    """
    names = result.estimator.values.tolist()
    labelled = ["label"] if "label" in result.coords else []
    extra = [name for name in ("retrained", "removed") if name in result]
    head = ["example", *labelled, "seed", "query", "window", *names, *extra]
    write_csv(path, head, _ranking(result, bool(labelled), extra))


def _ranking(result: xr.Dataset, labelled: bool, extra: list[str]) -> Iterator[list[Any]]:
    scores = result.influence.transpose("seed", "query", "window", "train", "estimator").values
    ids, first = result.example.values, ends(better_in(result.attrs))[0][1]
    for s, seed in enumerate(result.seed.values.tolist()):
        for q, query in enumerate(result["query"].values.tolist()):
            for w in range(result.sizes["window"]):
                some = scores[s, q, w]
                for i in (-first * some[:, 0]).argsort(kind="stable"):  # not a number comes last
                    label = [result.label.values[s, i]] if labelled else []
                    row = [ids[s, i], *label, seed, query, window_name(result, w), *some[i].tolist()]
                    more = [result[n].values[(q, w, i) if n == "retrained" else i].item() for n in extra]
                    yield [*row, *("" if x != x else x for x in more)]
