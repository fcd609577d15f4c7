"""`influencekit reproduce`: the paper's tables, run here and printed beside the paper's figures."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from influencekit.cli.bar import Bar
from influencekit.cli.parameters import shared

if TYPE_CHECKING:
    from influencekit_paper.reproduce import Progress, Report
    from influencekit_paper.reproduce.tables import Figure

__all__ = ["as_text", "reproduce"]

ALL = ("table1", "table2", "table3", "table4", "table5")
BEYOND = ("seeds", "windows")


@click.command(short_help="Run the paper's tables again, beside its figures.")
@click.argument("table", type=click.Choice([*ALL, *BEYOND, "all"]))
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    metavar="N",
    help="How many: 16 are the seeds 0 to 15.",
)
@click.option(
    "--cnn-seeds",
    type=click.IntRange(min=1),
    metavar="N",
    help="Seeds of the CNN, which costs ten times what the others do; as many as --seeds unless you say.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="Two seeds, unless --seeds says otherwise; leave-one-out of the CNN on one seed, 16 examples.",
)
@click.option(
    "--out",
    default="reproduction",
    show_default=True,
    metavar="DIR",
    help="A folder for the cells and the tables. What is there already is not done again.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes on the CPU, of one thread each; as many as cores unless you say. On a GPU there is one.",
)
@shared("device")
@click.pass_context
def reproduce(
    ctx: click.Context, table: str, seeds: int, cnn_seeds: int | None, quick: bool, out: str,
    workers: int | None, device: str,
) -> None:  # fmt: skip
    """Run the experiments of TABLE (arXiv 2502.10793) and print the result beside the paper's figures.

    TABLE is table1 (patterns by model and data), table2 (agreement with leave-one-out), table3 (by pattern),
    table4 (between stages of training), table5 (flipped labels found), or all of these; seeds (are patterns
    and ranks the data's or the seed's?) and windows (when do flipped labels show?) go beyond the paper.

    Every run is kept in DIR as soon as it is done, so that the same command continues after a break. The
    tables stand there as CSV, JSON, LaTeX and Markdown. Examples:

    \b
      influencekit reproduce table4
      influencekit reproduce all --quick
      influencekit reproduce table5 --seeds 4 --workers 2 --out table5
    """
    if quick and ctx.get_parameter_source("seeds") is click.core.ParameterSource.DEFAULT:
        seeds = 2
    said = f" --cnn-seeds {cnn_seeds}" if cnn_seeds else ""
    said += " --quick" if quick else ""
    state: list[Progress] = []
    with _progress(state) as draws:
        from influencekit import reproduce as reproducing
        from influencekit.cli.problems import use_device

        extent = reproducing.Extent(seeds, quick, use_device(device, 1), cnn_seeds)
        try:
            reports = reproducing.reproduce(
                ALL if table == "all" else (table,),
                out,
                extent,
                workers=workers or os.cpu_count() or 1,
                command=f"influencekit reproduce {table} --seeds {seeds}{said}",
                hear=draws,
            )
        except (KeyboardInterrupt, SystemExit):
            if state:
                click.echo(
                    f"{state[-1].done} of {state[-1].total} cells are done and kept in {out}; the same "
                    "command continues",
                    err=True,
                )
            raise
    from influencekit.cli.table import width_of

    for report in reports:
        _show(report, width_of(sys.stdout))
    endings = "csv, json, tex, md"
    click.echo(f"saved in {out}: {', '.join(r.name for r in reports)} ({endings})")


def _show(report: Report, width: int | None) -> None:
    from influencekit.cli.table import paragraph

    click.echo(click.style(paragraph(report.title, width), bold=True))
    for line in as_text(report, width):
        click.echo(line)
    said = "Test accuracy in %" + ("; the paper's figure in brackets." if report.compared else ".")
    click.echo(paragraph(said, width))
    for note in report.notes:
        click.echo(paragraph(note, width))
    click.echo("")


def as_text(report: Report, width: int | None = None) -> list[str]:
    """Aligned lines; where they are wider than `width`, without deviations; then a line a figure."""
    from influencekit.cli.table import aligned

    for short in (False, True):
        rows = [[*report.heads, *report.columns]]
        rows += [[*line.labels, *(_cell(f, short) for f in line.figures)] for line in report.lines]
        lines = aligned(rows, len(report.heads))
        if width is None or max(map(len, lines)) <= width:
            return lines
    lines = []
    for line in report.lines:
        lines.append(", ".join(line.labels))
        cells = [[f"  {c}", str(f)] for c, f in zip(report.columns, line.figures, strict=True)]
        lines += aligned(cells)
    return lines


def _cell(figure: Figure, short: bool) -> str:
    from influencekit_paper.reproduce.tables import Figure

    return str(
        Figure(figure.mean, 0.0, min(1, figure.seeds), figure.printed, figure.decimals) if short else figure
    )


class _Bar(Bar):
    """The line with the cells that are done and the time that the others will take."""

    def __init__(self, state: list[Progress]) -> None:
        super().__init__(sys.stderr)
        self._state = state

    def line(self) -> str:
        """`cells 3/16 ━━━╌╌╌╌ 42 s, about 4 min left`."""
        if self._state:
            now = self._state[-1]
            self._levels = {"cells": (min(now.done, now.total - 1), now.total)}
            left = f"{now.left:.0f} s" if now.left < 100 else f"{now.left / 60:.0f} min"
            return f"{super().line()}, about {left} left"
        return super().line()


@contextmanager
def _progress(state: list[Progress]) -> Iterator[Callable[[Progress], None]]:
    """What hears of progress; drawn on a terminal only."""

    def hear(now: Progress) -> None:
        state[:] = [now]

    if not sys.stderr.isatty():
        yield hear
        return
    with _Bar(state):
        yield hear
