"""The one place that prints: sentences, tables, errors and progress, on a terminal or into a pipe.

A terminal gets its width, bold heads and colours (none where NO_COLOR is set). A file or a pipe gets the same
text without styles, and one line for each paragraph and table row. Control characters are shown as escapes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, TextIO

import click

from influencekit._bars import progress
from influencekit._escape import shown
from influencekit.errors import InfluenceKitError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, RenderableType
    from rich.table import Table

__all__ = ["BEWARE", "Part", "complain", "print_table", "print_tables", "say", "working", "write"]

ENDLESS = 1_000_000  # the width of a pipe: nothing is ever broken
Part = str | tuple[str, str]  # text, or text and its style
BEWARE = ("Beware: ", "bold yellow")


def say(*parts: Part, indent: int = 0) -> None:
    """Print one paragraph, broken at blanks to the terminal's width. A part is text, or (text, style).

    Nothing but what is printed: an empty call ends a line. Into a pipe no line is broken and no style is
    written.

    Example:

        >>> from influencekit.extend import say
        >>> say("saved in ", ("runs", "bold"), indent=2)
          saved in runs
    """
    pairs = [(shown(part), "") if isinstance(part, str) else (shown(part[0]), part[1]) for part in parts]
    if not parts or not sys.stdout.isatty():  # a pipe has no width, and no styles
        text = "".join(text for text, _ in pairs)
        return write(f"{' ' * indent}{text}".rstrip() + "\n")
    from rich.padding import Padding
    from rich.text import Text

    _print(_console(), Padding(Text.assemble(*pairs), (0, 0, 0, indent), expand=False))


def write(text: str) -> None:
    """Print text to stdout exactly as it is: JSON, a generated page. Errors: a full disk."""
    try:
        click.echo(text, nl=False)
    except BrokenPipeError:  # click knows how that ends
        raise
    except OSError as error:
        _drop(sys.stdout)
        raise InfluenceKitError(f"stdout cannot be written: {error.strerror}") from error


@contextmanager
def working() -> Iterator[None]:
    """Around a command's work: progress is drawn, and what models and plugins print goes to stderr."""
    with progress(), redirect_stdout(sys.stderr):
        yield


def complain(text: str, word: str = "", **style: Any) -> None:
    """One line on stderr: `error: ...`, `warning: ...`, or without such a word; `style` is the word's.

    Example:

        >>> from influencekit.extend import complain
        >>> complain("expected a folder", "error:", fg="red")  # on stderr
    """
    head = f"{click.style(word, **style) if _colour(sys.stderr) else word} " if word else ""
    try:
        print(f"{head}{shown(' '.join(text.split()))}", file=sys.stderr, flush=True)
    except OSError:  # there is nobody to tell
        _drop(sys.stderr)


def print_table(
    frame: pd.DataFrame, title: str = "", *, left: int = 1, dim: Collection[int] = (), gap: int = 3
) -> None:
    """Print a frame: its first `left` columns flush left, the others flush right.

    An index that is more than a count is shown as well, as the columns that are flush left. Of several
    levels, the first is left blank where it is the same as above.

    Cells: text as it is, floats with three decimals, `-` for NaN and None. The rows at the positions `dim`
    are dimmed. Where the table is wider than the terminal, its gaps shrink to two blanks; then deviations go
    (`0.912 ± 0.034` becomes `0.912`); then every row becomes a block with one figure a line.

    Example:

        >>> import pandas as pd
        >>> from influencekit.extend import print_table
        >>> print_table(pd.DataFrame({"estimator": ["dit", "if"], "pearson": [0.998, 0.9]}))
        estimator   pearson
        dit           0.998
        if            0.900
    """
    from influencekit.cli.frames import pandas

    pd = pandas()
    index, console = frame.index, _console()
    if index.name is not None or not isinstance(index, pd.RangeIndex):
        names = ["" if name is None else name for name in index.names]
        left, frame = index.nlevels, frame.reset_index(names=names, allow_duplicates=True)
    full = frame.map(_cell)
    cells = full.copy()
    if index.nlevels > 1:
        first = full.iloc[:, 0]
        cells.isetitem(0, first.where(first != first.shift(), ""))
    if title:
        say((title, "bold"))
    for each, blanks in ((cells, gap), (cells, 2), (_short(cells), gap), (_short(cells), 2)):
        table = _table(each, left, dim, blanks)
        if _width(table) <= console.width:
            return _print(console, table)
    for row in full.itertuples(index=False, name=None):
        say((" ".join(part for part in row[:left] if part), "bold"))
        figures = zip(cells.columns[left:], row[left:], strict=True)
        _print(console, _block([(shown(name), cell) for name, cell in figures if cell]))


def print_tables(frames: Mapping[str, pd.DataFrame], *, left: int = 1) -> None:
    """Print {title: frame} side by side; one below the other where the terminal is too narrow."""
    from rich.table import Table

    console = _console()
    beside = Table(box=None, pad_edge=False, padding=(0, 4, 0, 0), header_style="bold")
    for title in frames:
        beside.add_column(shown(title), no_wrap=True)
    beside.add_row(*(_table(frame.map(_cell), left) for frame in frames.values()))
    if _width(beside) <= console.width:
        return _print(console, beside)
    for k, (title, frame) in enumerate(frames.items()):
        if k:
            say()
        print_table(frame, title, left=left)


def _table(cells: pd.DataFrame, left: int, dim: Collection[int] = (), gap: int = 2) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for k, name in enumerate(cells.columns):
        table.add_column(Text(shown(name)), justify="left" if k < left else "right", no_wrap=True)
    for k, row in enumerate(cells.itertuples(index=False, name=None)):
        table.add_row(*map(Text, row), style="dim" if k in dim else "")
    return table


def _block(figures: list[tuple[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    for name, cell in figures:
        table.add_row(Text(f"  {name}"), Text(cell))
    return table


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else shown(value)


def _short(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.replace(r" ± [^\s)]+", "", regex=True)


def _console() -> Console:
    from rich.console import Console

    screen = sys.stdout.isatty()
    return Console(
        file=sys.stdout,
        width=None if screen else ENDLESS,
        color_system="auto" if _colour(sys.stdout) else None,
        markup=False,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )


def _drop(stream: TextIO) -> None:
    """What waits to be written to a stream that cannot be written goes nowhere, also when Python ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR")


def _width(table: Table) -> int:
    from rich.console import Console
    from rich.measure import Measurement

    endless = Console(width=ENDLESS)
    return Measurement.get(endless, endless.options, table).maximum


def _print(console: Console, what: RenderableType) -> None:
    """Laid out by rich and written by click, which knows how a closed pipe ends."""
    with console.capture() as captured:
        console.print(what)
    write("\n".join(line.rstrip() for line in captured.get().split("\n")))
