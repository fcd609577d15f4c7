"""The files of `compare --out`, `estimate --out` and `plot`: scores, rankings, agreement, plots."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influencekit._direction import better_in, ends, extremes, written
from influencekit.cli.examples import PICTURES, pictures
from influencekit.cli.formats import save_dataset, to_json, write_csv
from influencekit.cli.summary import window_name

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from influencekit._training.workload import Workload

__all__ = ["draw", "save_comparison", "write_ranking"]


def save_comparison(
    result: xr.Dataset, found: dict[str, Any], workload: Workload | None, folder: Path,
    escape_formulas: bool = False,
) -> None:  # fmt: skip
    """scores.zarr, ranking.csv, agreement.csv, compare.json and the plots, into a folder that is there."""
    save_dataset(result, folder / "scores.zarr")
    write_ranking(result, folder / "ranking.csv", escape_formulas)
    write_csv(_agreement(result), folder / "agreement.csv", escape_formulas)
    (folder / "compare.json").write_text(to_json(found), encoding="utf-8")
    draw(result, workload, folder)


def _agreement(result: xr.Dataset) -> pd.DataFrame:
    """A row for every estimator, seed, query and window, and one for `loo again`."""
    from influencekit.cli.frames import pandas

    pd = pandas()
    values = result.agreement.transpose("estimator", "seed", "query", "window", "metric").values
    metrics, rows = result.metric.values.tolist(), []
    for e, name in enumerate(result.estimator.values.tolist()):
        for s, seed in enumerate(result.seed.values.tolist()):
            accuracy, seconds = float(result.accuracy[s]), float(result.seconds[e, s])
            for q, query in enumerate(result["query"].values.tolist()):
                for w in range(result.sizes["window"]):
                    where = [query, window_name(result, w), str(result.removal[w].item())]
                    rows.append([name, seed, *where, *values[e, s, q, w].tolist(), accuracy, seconds])
    if "ceiling" in result:
        rows += _again(result)
    head = ["estimator", "seed", "query", "window", "removal", *metrics, "accuracy", "seconds"]
    found = pd.DataFrame(rows, columns=head)
    if "intercept" in result:
        added = result.intercept.transpose("estimator", "seed", "query", "window").values.ravel().tolist()
        found["intercept"] = [*added, *[float("nan")] * (len(rows) - len(added))]  # `loo again` has none
    return found


def _again(result: xr.Dataset) -> list[list[Any]]:
    """Rows of `loo again`: means over the repeated runs."""
    order = ("seed", "query", "window", "metric")
    values, rows = result.loo_again.mean("repeat", skipna=True).transpose(*order).values, []
    accuracy = result.again_accuracy.mean("repeat", skipna=True).values
    seconds = result.again_seconds.sum("repeat", skipna=True, min_count=1).values
    for s, seed in enumerate(result.seed.values.tolist()):
        for q, query in enumerate(result["query"].values.tolist()):
            for w in range(result.sizes["window"]):
                where = [query, window_name(result, w), str(result.removal[w].item())]
                rows.append(["loo again", seed, *where, *values[s, q, w].tolist(), accuracy[s], seconds[s]])
    return rows


def write_ranking(result: xr.Dataset, path: Path, escape_formulas: bool = False) -> None:
    """One row an example, seed, query and window; the most harmful by the first estimator come first.

    Where neither way of the query is better, those whose removal lowers it most.
    Of scores for sets, `intercept` is what is added to a sum of these scores, the same in every row of a
    seed, query and window; of several estimators, `intercept of NAME`. What `estimate` retrained follows: its
    effect, empty where there is none, and 1 for what was removed. Parts of examples have their `id` and
    `part`, too, and `is_influence_issue`, which --remove reads: without this part, retrained, the query is
    better (mean over queries and windows).
    """
    from influencekit.cli.frames import pandas

    pd = pandas()
    dims = ("seed", "query", "window", "estimator", "train")
    scores = result.influence.transpose(*dims).values.astype(float)  # written with all their digits
    names, first = result.estimator.values.tolist(), ends(better_in(result.attrs))[0][1]
    parts = {n: result[n].values for n in ("id", "part") if "id" in result.coords}
    if parts and "retrained" in result and (better := better_in(result.attrs)):
        mean = result.retrained.mean(("query", "window"), skipna=False).values
        parts["is_influence_issue"] = mean * (1 if better == "higher" else -1) > 0
    frames = []
    for s, seed in enumerate(result.seed.values.tolist()):
        of_seed = {name: result[name].values[s] for name in ("example", "label") if name in result.coords}
        for q, query in enumerate(result["query"].values.tolist()):
            for w in range(result.sizes["window"]):
                where = {"seed": seed, "query": query, "window": window_name(result, w)}
                frame = pd.DataFrame(of_seed | parts | where | dict(zip(names, scores[s, q, w], strict=True)))
                frame = frame.assign(**_intercepts(result, s, q, w))
                if "retrained" in result:
                    change = pd.Series(result.retrained.values[q, w].tolist(), dtype=object)
                    frame["retrained"] = change.where(change.notna(), "")
                if "removed" in result:
                    frame["removed"] = result.removed.values
                # stable, and not a number comes last
                frames.append(frame.iloc[(-first * scores[s, q, w, 0]).argsort(kind="stable")])
    write_csv(pd.concat(frames), path, escape_formulas)


def _intercepts(result: xr.Dataset, s: int, q: int, w: int) -> dict[str, float]:
    """{column: what is added to a sum of scores} of the estimators that have such a number."""
    if "intercept" not in result:
        return {}
    added = result.intercept.transpose("estimator", "seed", "query", "window").values.astype(float)
    names = result.estimator.values.tolist()
    some = {name: added[e, s, q, w] for e, name in enumerate(names) if len(names) == 1 or added[e].any()}
    return {"intercept" if len(names) == 1 else f"intercept of {n}": float(x) for n, x in some.items()}


def draw(result: xr.Dataset, workload: Workload | None, folder: Path) -> list[str]:
    """Draw what can be drawn of a result [estimator, seed, query, window, train]; the names of the files.

    `agreement.png` where there is ground truth, `ceiling.png` where it was repeated; `extremes-NAME.png` for
    the first seed, where the examples of its workload are pictures; `timeline-NAME.png` where there are
    several windows. Several queries are averaged.
    """
    from influencekit import plot
    from influencekit.plot.style import name_text, subject

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
    if "ceiling" in result and len(names) > 1:
        save(plot.ceiling(result), "ceiling.png")
    first = result.isel(seed=0)
    better = written(better_in(result.attrs))
    scores = first.influence.mean("query", skipna=False)
    some = "" if result.sizes["seed"] == 1 else f", seed {int(first.seed)}"
    several, about = result.sizes["window"] > 1, name_text(subject(result.attrs), 80)
    for name in names:
        file = re.sub(r"[^\w.=-]+", "_", name)
        each = scores.sel(estimator=name).assign_attrs(better)
        mean = each.mean("window", skipna=False).assign_attrs(better)
        both = extremes(mean.values, better_in(better), PICTURES)
        rows = sorted({int(k) for _, _, chosen in both for k in chosen})
        if workload is not None and rows and (shown := pictures(workload, rows)) is not None:
            axes = plot.extremes(mean.isel(train=rows), shown, PICTURES)
            over = f", mean of {result.sizes['window']} windows" if several else ""
            save(axes, f"extremes-{file}.png", f"{about}: {name}{some}{over}")
        if several:
            line = plot.timeline(each.transpose("window", "train"))
            save(line, f"timeline-{file}.png", f"{about}: {name}{some}")
    return drawn
