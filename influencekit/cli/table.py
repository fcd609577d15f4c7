"""The table that `compare` prints: aligned, no wider than the terminal, plain where colours cannot be."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import click

__all__ = ["aligned", "compared", "figure", "paragraph", "format_percent", "width_of"]


def width_of(stream: Any = None) -> int | None:
    """Columns of the terminal behind `stream` (stdout); None for a file or a pipe, which has no width."""
    stream = stream or sys.stdout
    return shutil.get_terminal_size((80, 24)).columns if stream.isatty() else None


def paragraph(text: str, width: int | None, indent: str = "") -> str:
    """`text` broken at blanks to the terminal's width; one line where there is none."""
    if width is None:
        return indent + text
    return textwrap.fill(
        text, max(20, width), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def aligned(rows: Sequence[Sequence[str]], left: int = 1, gap: str = "  ") -> list[str]:
    """Rows of cells as lines: the first `left` columns flush left, the others flush right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            c.ljust(w) if k < left else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(gap.join(cells).rstrip())
    return lines


def compared(found: dict[str, Any], facts: Sequence[str], remarks: Sequence[str], width: int | None) -> str:
    """The whole report: what was compared (facts), a row per estimator, a row per window, the tables of
    evaluations, remarks."""
    title, *details = facts
    from influencekit.cli.evaluated import evaluated

    blocks = [click.style(paragraph(title, width), bold=True)]
    blocks += [*(paragraph(each, width) for each in details), ""]
    blocks += _estimators(found, width)
    if len(found.get("windows", ())) > 1:
        blocks += ["", *_windows(found, width)]
    blocks += evaluated(found, width)
    if remarks:
        blocks += ["", *(paragraph(each, width) for each in remarks)]
    return "\n".join(blocks)


def _estimators(found: dict[str, Any], width: int | None) -> list[str]:
    accuracy = found["accuracy"]
    several = len(found["seeds"]) > 1
    for spread in (True, False) if several else (False,):
        rows = [["estimator", *_metrics(found), "accuracy", "seconds"]]
        for name, row in found["estimators"].items():
            figures = [figure(row[m], spread) for m in _metrics(found)]
            mark = " (reference)" if name == found["reference"] else ""
            rows.append([name + mark, *figures, format_percent(accuracy, spread), seconds(row["seconds"])])
        lines = aligned(rows, gap="   ")
        if width is None or max(map(len, lines)) <= width:
            return _styled(lines, found)
        lines = aligned(rows)
        if max(map(len, lines)) <= width:
            return _styled(lines, found)
    stacked = []
    for name, row in found["estimators"].items():
        mark = " (reference)" if name == found["reference"] else ""
        cells = [[f"  {m}", figure(row[m], several)] for m in _metrics(found)]
        cells += [["  accuracy", format_percent(accuracy, several)], ["  seconds", seconds(row["seconds"])]]
        stacked += [click.style(name, bold=True) + mark, *aligned(cells, left=2)]
    return stacked


def _styled(lines: list[str], found: dict[str, Any]) -> list[str]:
    head, *rows = lines
    reference = list(found["estimators"]).index(found["reference"])
    return [
        click.style(head, bold=True),
        *(click.style(row, dim=True) if k == reference else row for k, row in enumerate(rows)),
    ]


def _windows(found: dict[str, Any], width: int | None) -> list[str]:
    """One row a window, one column an estimator: Spearman with the reference."""
    names = [n for n in found["estimators"] if n != found["reference"]]
    if not names:
        return []
    several = len(found["seeds"]) > 1
    for spread in (several, False):
        rows = [["window", *names]]
        for each in found["windows"]:
            rows.append([each["window"], *(figure(each["estimators"][n]["spearman"], spread) for n in names)])
        lines = aligned(rows, gap="   ")
        if width is None or max(map(len, lines)) <= width:
            break
    return [click.style("Spearman in each window", bold=True), *lines]


def _metrics(found: dict[str, Any]) -> list[str]:
    first = next(iter(found["estimators"].values()))
    return [m for m in first if m != "seconds"]


def figure(statistic: dict[str, float], spread: bool) -> str:
    """`0.912 ± 0.034`, `0.912`, or `-` where it is undefined."""
    mean, std = statistic["mean"], statistic["std"]
    if math.isnan(mean):
        return "-"
    return f"{mean:.3f} ± {std:.3f}" if spread else f"{mean:.3f}"


def format_percent(statistic: dict[str, float], spread: bool) -> str:
    """`98.4 ± 0.5 %`, or `-` where accuracy has no meaning."""
    mean, std = 100 * statistic["mean"], 100 * statistic["std"]
    if math.isnan(mean):
        return "-"
    return f"{mean:.1f} ± {std:.1f} %" if spread else f"{mean:.1f} %"


def seconds(value: float) -> str:
    """Three figures, or whole seconds beyond 100."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
