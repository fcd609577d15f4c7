"""`compare --ceiling` and `--cross-seed`: what they take, and the table that they print."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from influencekit._arguments import moved_fraction
from influencekit._statistics import format_statistic
from influencekit.cli.console import print_table, say
from influencekit.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AGAIN", "Ceiling", "print_beside"]

AGAIN = "loo again"


class Ceiling(click.ParamType):
    """`0.001`, `moved=0.001` (a fraction above 0, at most 1), or `seeds`."""

    name = "ceiling"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or value == "seeds":
            return value
        try:
            moved = float(value.removeprefix("moved="))
        except ValueError:
            raise InputError(
                f"--ceiling: expected a fraction such as 0.001, or seeds, got '{value[:60]}'; a workload "
                "stands before --ceiling, or write --ceiling=0.001"
            ) from None
        return moved_fraction("--ceiling", moved if moved == moved else value)


def print_beside(found: dict[str, Any]) -> None:
    """Every estimate beside its ceiling and beside other seeds, as far as these were asked for, and what to
    know of them."""
    across = found.get("cross_seed", {})
    if "ceiling" not in found and "absent" in across:
        say()
        return _say_absent(across)
    if "ceiling" not in found and not across:
        return
    frame = _rows(found)
    if len(frame):
        say()
        print_table(frame, gap=2)
    for note in _notes(found):
        say(note)
    if "absent" in across:
        _say_absent(across)


def _rows(found: dict[str, Any]) -> pd.DataFrame:
    """A row for every metric of every estimator; the reference has one where seeds are compared."""
    from influencekit.cli.frames import pandas

    pd = pandas()
    several, ceiling = len(found["seeds"]) > 1, found.get("ceiling")
    across = {} if "absent" in found.get("cross_seed", {}) else found.get("cross_seed", {})
    keys, rows = [], []
    for name, row in found["estimators"].items():
        reference = name == found["reference"]
        if reference and not across:
            continue
        for metric in [m for m in row if m != "seconds"]:
            keys.append((f"{name} (reference)" if reference else name, metric))
            cells = {"estimate": format_statistic(row[metric], several)}
            if ceiling is not None:
                cells["ceiling"] = format_statistic(ceiling["ceiling"][metric], several)
                ratio = ceiling["estimators"].get(name, {}).get(metric, {"mean": math.nan, "std": math.nan})
                cells["estimate / ceiling"] = format_statistic(ratio, several)
            if across:
                cells["across seeds"] = format_statistic({"mean": across[name][metric], "std": 0.0}, False)
            rows.append(cells)
    return pd.DataFrame(rows, index=pd.MultiIndex.from_tuples(keys, names=["estimator", "metric"]))


def _notes(found: dict[str, Any]) -> list[str]:
    notes = []
    if "ceiling" in found:
        ceiling = found["ceiling"]
        notes.append(ceiling["note"])
        high = {
            name: [f"{m} ({ratio['mean']:.3f})" for m, ratio in each.items() if ratio["mean"] > 1]
            for name, each in ceiling["estimators"].items()
        }
        if said := "; ".join(f"{name} in {', '.join(some)}" for name, some in high.items() if some):
            notes.append(f"Above the ceiling, as an estimate that follows this very run may be: {said}.")
        if low := [m for m, x in ceiling["ceiling"].items() if not x["mean"] > 0]:
            notes.append(f"No ratio in {', '.join(low)}: the ceiling is 0 there, or unknown.")
    if "cross_seed" in found and "absent" not in found["cross_seed"]:
        notes.append(
            "Across seeds: one seed's estimate against another's reference, on the same examples, mean over "
            "ordered pairs."
        )
    return notes


def _say_absent(across: dict[str, Any]) -> None:
    say(f"No agreement across seeds: {across['absent']}.")
