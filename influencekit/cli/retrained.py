"""`estimate --verify-top` and `--remove`: what retraining showed, to be saved and to be printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from influencekit._direction import most
from influencekit.cli.console import print_table, say
from influencekit.cli.ranking import row_word
from influencekit.cli.summary import window_name

if TYPE_CHECKING:
    import xarray as xr

    from influencekit._trajectory.trajectory import Trajectory

__all__ = ["attach", "check_ids", "print_removed", "print_verified", "read_ids"]


def read_ids(path: str, parts: bool) -> list[Any]:
    """What the file of --remove names: example ids, or with --parts rows (id, part)."""
    from influencekit._verbs.removal_list import ids_in

    return ids_in(path, "--remove", parts)


def check_ids(trajectory: Trajectory, ids: list[Any]) -> None:
    """Find what the run does not have before the work. Cost: of parts, a forward pass of each example."""
    from influencekit._verbs.by_part import pairs_in, positions_of_parts
    from influencekit._verbs.remove import positions_of

    if pairs := pairs_in(ids):
        positions_of_parts(trajectory, pairs)
    else:
        positions_of(trajectory.workload, ids)


def attach(result: xr.Dataset, verified: xr.Dataset | None, removed: xr.Dataset | None) -> xr.Dataset:
    """The scores with what retraining showed: NaN for whatever was not retrained.

    `retrained` and `after` [query, window, train, ...], `before` [query, window] and `agreement` [metric,
    query, window] of the verified examples, or parts; `removed` [train, ...] marks the set,
    `removed_estimate`, `..._retrained`, `..._before`, `..._after` [query, window] and
    `removed_accuracy_before`, `..._after` [window] are its, `removed_part_estimate`, `..._retrained` [query,
    window, part] those of its strongest, a quarter, half and all (of parts of examples: [..., removed_part]),
    and the attr `removed_verdict` says how far their sum holds. With --runs also what `remove` adds of other
    runs.
    """
    import numpy as np

    ids = result.example.isel(seed=0).values.tolist()
    full = result.influence.isel(estimator=0, seed=0, drop=True).transpose("query", "window", "train", ...)
    if "part" in full.dims:
        ids = [f"{name}[{part}]" for name in ids for part in full.part.values.tolist()]
    if verified is not None:
        places = _places(ids, verified)
        for name in ("retrained", "after"):
            values = np.full((*full.shape[:2], len(ids)), np.nan, dtype=full.dtype)
            values[..., places] = verified[name].values
            result[name] = full.dims, values.reshape(full.shape)
        result = result.assign(before=verified.before, agreement=verified.agreement)
        result = result.assign_coords(metric=verified.metric)
    if removed is not None:
        marks = np.zeros(len(ids), dtype=np.int8)
        marks[_places(ids, removed)] = 1
        result["removed"] = full.dims[2:], marks.reshape(full.shape[2:])
        if "part" in result.coords:  # parts of examples
            removed = removed.rename(part="removed_part")
        for name in [str(n) for n in removed.data_vars if n != "influence"]:
            result[f"removed_{name}"] = removed[name].dims, removed[name].values
        size = removed.part_estimate.dims[-1]
        result = result.assign_coords({size: removed[size].values})
        said = {n: removed.attrs[n] for n in ("verdict", "runs", "moved", "chosen") if n in removed.attrs}
        result.attrs |= {f"removed_{name}": value for name, value in said.items()}
    return result


def _places(ids: list[str], some: xr.Dataset) -> list[int]:
    where = {name: k for k, name in enumerate(ids)}
    return [where[str(name)] for name in some.train.values.tolist()]


def print_verified(result: xr.Dataset, verified: xr.Dataset) -> None:
    """The verified examples, or parts, their estimate beside the truth, and how well the two agree."""
    import numpy as np

    from influencekit.cli.frames import pandas

    pd = pandas()
    mean, attrs = verified.mean(("query", "window")), verified.attrs
    count, query = verified.sizes["train"], attrs["query"]
    ids = result.example.isel(seed=0).values.tolist()
    places = _places(ids, verified)
    row = row_word(result)
    columns = {row: [ids[place] for place in places]}
    if "label" in result.coords:
        columns["class"] = [str(label) for label in result.label.isel(seed=0).values[places]]
    left = len(columns)
    for name in ("estimate", "retrained"):
        columns[name] = [f"{float(value):+.3e}" for value in mean[name]]
    what = query if len(query) <= 12 else "query"
    columns[f"{what} without"] = [f"{float(value):#.6g}" for value in mean.after]
    which = attrs["which"]
    end = f"most {which}" if which in ("harmful", "helpful") else f"whose {most(which)}"
    title = f"the {count} {end}, retrained without each ({attrs['seconds']:.1f} s)"
    print_table(pd.DataFrame(columns), title, left=left, gap=2)
    many = [f"{verified.sizes[d]} {words}" for d, words in (("query", "queries"), ("window", "windows"))]
    over = " and ".join(each for each in many if not each.startswith("1 "))
    right = int((np.sign(mean.estimate) == np.sign(mean.retrained)).sum())  # of the rows that are shown
    figures = [
        f", {name.capitalize()} {float(value):.3f}"
        for name, value in zip(mean.metric.values.tolist(), mean.agreement.values, strict=True)
        if name in ("pearson", "spearman") and value == value and count > 3  # of two or three it says nothing
    ]
    say(
        f"{query}{f' (mean over {over})' if over else ''} is {float(mean.before):#.6g} with all {row}s; "
        f"the sign is right for {right} of {count}{''.join(figures)}"
    )


def print_removed(removed: xr.Dataset, what: str = "examples") -> None:
    """The whole set: the query with and without it, and the sum of the scores, a row a window; the same of
    its strongest half and quarter, where there is one window; and how far the sum holds."""
    from influencekit.cli.frames import pandas

    pd = pandas()
    mean, windows = removed.mean("query"), removed.sizes["window"]
    rows = []
    for k in range(windows):
        at = mean.isel(window=k)
        name = window_name(removed, k) if windows > 1 else removed.attrs["query"]
        rows.append(_effect(name, *(float(at[n]) for n in ("before", "after", "retrained", "estimate"))))
    accuracy = [100 * float(removed[f"accuracy_{each}"][-1]) for each in ("before", "after")]
    if accuracy[0] == accuracy[0]:
        points = f"{accuracy[1] - accuracy[0]:+.1f} %"
        rows.append(["test accuracy", *(f"{a:.1f} %" for a in accuracy), points, ""])
    for k in reversed(range(removed.sizes["part"] - 1 if windows == 1 else 0)):
        change, total = (float(mean[f"part_{n}"][0, k]) for n in ("retrained", "estimate"))
        before = float(mean.before[0])
        rows.append(
            _effect(f"{int(removed.part[k])} strongest of them", before, before + change, change, total)
        )
    if windows == 1 and "retrained_runs" in removed:
        change, total = float(removed.retrained_runs.mean()), float(mean.estimate_crossfit[0])
        moved = f"mean of {removed.sizes['run']} moved runs"
        rows.append([moved, "", "", f"{change:+.3e}", f"{total:+.3e}"])
    head = ["window" if windows > 1 else "", "with all", "without", "change", "sum of scores"]
    count = removed.sizes["train"]
    title = f"without all {count} {what} of the set, retrained ({removed.attrs['seconds']:.1f} s)"
    print_table(pd.DataFrame(rows, columns=head), title, gap=2)
    say(removed.attrs["verdict"])


def _effect(name: str, before: float, after: float, change: float, total: float) -> list[str]:
    return [name, f"{before:#.6g}", f"{after:#.6g}", f"{change:+.3e}", f"{total:+.3e}"]
