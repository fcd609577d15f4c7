"""The tables of `compare --evaluate`, under the table of agreement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import click

from influencekit.cli.table import aligned, figure, format_percent, paragraph
from influencekit.direction import most
from influencekit.evaluation.bootstrap import LEAST

__all__ = ["evaluated"]

Rows = list[list[str]]


def evaluated(found: dict[str, Any], width: int | None) -> list[str]:
    """Lines: for every evaluation in `found` a title, a table and what is to be said of it."""
    several = len(found["seeds"]) > 1
    lines: list[str] = []
    every = found.get("evaluation", {})
    names = [one["evaluation"] for one in every.values()]
    for spec, one in every.items():
        title, left, table, notes = _TABLES[one["evaluation"]](one)
        if names.count(one["evaluation"]) > 1:  # told apart by their options
            title += f" ({spec})"
        lines += ["", click.style(paragraph(title, width), bold=True)]
        lines += _fitted(table, left, several, width)
        if "left_out" in one:
            notes = [*notes, f"left out: {one['left_out']}"]
        lines += [paragraph(note, width) for note in notes]
    return lines


def _fitted(table: Callable[[bool], Rows], left: int, several: bool, width: int | None) -> list[str]:
    """The table, with deviations over seeds if they fit; without; a row a line of the table's, if need be."""
    for spread in (True, False) if several else (False,):
        for gap in ("   ", "  "):
            head, *rows = aligned(table(spread), left, gap)
            if width is None or max(map(len, [head, *rows])) <= width:
                return [click.style(head, bold=True), *rows]
    names, *cells = table(several)
    stacked = []
    for row in cells:
        stacked.append(click.style(" ".join(row[:left]), bold=True))
        pairs = zip(names[left:], row[left:], strict=True)
        stacked += aligned([[f"  {name}", cell] for name, cell in pairs if cell])
    return stacked


def _lds(one: dict[str, Any]) -> tuple[str, int, Callable[[bool], Rows], Sequence[str]]:
    def table(spread: bool) -> Rows:
        rows = [["estimator", "lds", "from", "to"]]
        for name, row in one["estimators"].items():
            score = row["lds"]
            ends = ("-" if math.isnan(score[end]) else f"{score[end]:.3f}" for end in ("low", "high"))
            rows.append([name, figure(score, spread), *ends])
        return rows

    title = (
        f"Linear datamodeling score, {one['m']} random subsets of {100 * one['fraction']:g} % and their "
        f"{100 * one['level']:g} % bootstrap interval"
    )
    few = f"fewer than {LEAST} subsets give no interval; --evaluate lds:m=50 does"
    return title, 1, table, (few,) if one["m"] < LEAST else ()


def _leave_k_out(one: dict[str, Any]) -> tuple[str, int, Callable[[bool], Rows], Sequence[str]]:
    words = {"pearson": "pearson", "spearman": "spearman", "size": "retrained / predicted"}

    def table(spread: bool) -> Rows:
        rows = [["estimator", "", *(f"k = {k}" for k in one["k"])]]
        for name, row in one["estimators"].items():
            for j, (key, word) in enumerate(words.items()):
                rows.append(["" if j else name, word, *(figure(value, spread) for value in row[key])])
        return rows

    return f"Leave-k-out, {one['groups']} random groups of every k", 2, table, ()


def _brittleness(one: dict[str, Any]) -> tuple[str, int, Callable[[bool], Rows], Sequence[str]]:
    flips = "flips" in one["control"]
    ends = [word for word in ("helpful", "harmful", "raises", "lowers") if word in _first_of(one)]

    def table(spread: bool) -> Rows:
        rows = [["removed", "chosen by", *(f"k = {k}" for k in one["k"])]]
        kinds = [("effect", "", _effect), *([("flips", "_flips", format_percent)] if flips else [])]
        for key, end, words in kinds:
            for removed in ends:
                for j, (name, row) in enumerate(one["estimators"].items()):
                    first = ("flipped, " if end else "") + most(removed)
                    cells = [words(value, spread) for value in row[removed + end]]
                    rows.append(["" if j else first, name, *cells])
            cells = [words(value, spread) for value in one["control"][key]]
            rows.append([("flipped, " if end else "") + "random", f"mean of {one['draws']}", *cells])
        return rows

    title = "Brittleness: the effect on the query of retraining without k examples"
    return title, 2, table, ()


def _first_of(one: dict[str, Any]) -> dict[str, Any]:
    return next(iter(one["estimators"].values()))


def _effect(value: dict[str, float], spread: bool) -> str:
    """Three figures and the sign; `-` where there is none."""
    if math.isnan(value["mean"]):
        return "-"
    return f"{value['mean']:+.2e}" + (f" ± {value['std']:.0e}" if spread else "")


def _mislabel(one: dict[str, Any]) -> tuple[str, int, Callable[[bool], Rows], Sequence[str]]:
    def table(spread: bool) -> Rows:
        rows = [["estimator", "auc", "average precision", f"found of {one['corrupted']}"]]
        for name, row in one["estimators"].items():
            found = row["found"]
            some = f"{found['mean']:.1f}" + (f" ± {found['std']:.1f}" if spread else "")
            rows.append([name, figure(row["auc"], spread), figure(row["average_precision"], spread), some])
        rows.append(["final training loss (control)", figure(one["control"]["auc"], spread), "", ""])
        return rows

    title = (
        f"Mislabel AUC, {100 * one['share']:g} % of the labels flipped; accuracy then "
        f"{format_percent(one['accuracy'], False)}"
    )
    return title, 1, table, ()


def _taylor(one: dict[str, Any]) -> tuple[str, int, Callable[[bool], Rows], Sequence[str]]:
    def table(spread: bool) -> Rows:
        rows = [["estimator", "slope", "from h", "to h", "2 below h"]]
        for name, row in one["estimators"].items():
            ends = [row[key]["mean"] for key in ("slope_from", "slope_to", "smooth_below")]
            cells = ["-" if math.isnan(h) else f"{h:.0e}" for h in ends]
            rows.append([name, figure(row["slope"], spread), *cells])
        return rows

    title = (
        f"Taylor slope in {one['dtype']}: 2 = the scores are the derivative by the weights, 1 = they are not"
    )
    return title, 1, table, ()


_TABLES = {
    "lds": _lds,
    "leave-k-out": _leave_k_out,
    "brittleness": _brittleness,
    "mislabel-auc": _mislabel,
    "taylor": _taylor,
}
