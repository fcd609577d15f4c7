"""Printing: one place does it; tables and paragraphs fit terminals, are plain in pipes, and lose nothing."""

import ast
import re
import time
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from click import unstyle

import influencekit
from influencekit._bars import Loops, progress
from influencekit.cli.comparison import print_agreement
from influencekit.cli.console import complain, print_table, print_tables, say
from influencekit.progress import announce, listen, track

PACKAGE = Path(influencekit.__file__).parent


class Terminal(StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """terminal(width): standard output becomes a terminal so wide."""

    def make(width: int) -> Terminal:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr("sys.stdout", screen := Terminal())
        return screen

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return make


def test_only_the_console_prints():
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "print",
                "click.echo",
                "click.secho",
            ):
                found.append(path.relative_to(PACKAGE).as_posix())
    assert set(found) == {"cli/console.py"}


ROWS = [["dit", "0.912 ± 0.034", 0.5, float("nan")], ["loo", "1.000 ± 0.000", 12.0, "3"]]
FRAME = pd.DataFrame(ROWS, columns=["estimator", "pearson", "[b]slope", "n"])


def test_a_pipe_gets_plain_aligned_lines_without_an_end(capsys):
    print_table(FRAME, "[bold]A title :smile:", dim=[1])
    say(("Beware: ", "bold red"), "word " * 60)
    *lines, paragraph = capsys.readouterr().out.splitlines()
    assert lines == [
        "[bold]A title :smile:",
        "estimator         pearson   [b]slope   n",
        "dit         0.912 ± 0.034      0.500   -",
        "loo         1.000 ± 0.000     12.000   3",
    ]
    assert paragraph == "Beware: " + ("word " * 60).rstrip()


@pytest.mark.parametrize("width", [80, 38, 36, 31, 28, 24])
def test_a_table_fits_its_terminal_and_deviations_go_first(terminal, width):
    screen = terminal(width)
    print_table(FRAME)
    lines = [line.rstrip() for line in unstyle(screen.getvalue()).splitlines()]
    assert max(map(len, lines)) <= width
    assert all(any(figure in line for line in lines) for figure in ("0.912", "0.500", "12.000"))
    assert any("±" in line for line in lines) == (width not in (36, 31))
    assert (lines[0] == "dit") == (width < 31), "then a row becomes a block"


def test_an_index_is_shown_and_columns_may_share_a_name(capsys):
    frame = pd.DataFrame([["a", 1, 2]], columns=["", "k", "k"]).set_index("")
    print_table(frame)
    print_table(pd.DataFrame({"k": [1]}, index=["a"]))
    levels = pd.MultiIndex.from_tuples(
        [("dit", "rank"), ("dit", "value"), ("if", "rank")], names=["who", "what"]
    )
    print_table(pd.DataFrame({"k": [1, 2, 3]}, index=levels))
    assert capsys.readouterr().out.splitlines() == [
        "    k   k", "a   1   2",
        "    k", "a   1",
        "who   what    k", "dit   rank    1", "      value   2", "if    rank    3",
    ]  # fmt: skip


def test_two_tables_stand_side_by_side_or_one_below_the_other(terminal):
    frames = {"most harmful": FRAME[["estimator", "pearson"]], "nothing": FRAME[["estimator"]][:0]}
    screen = terminal(80)
    print_tables(frames)
    assert re.match(
        r"most harmful +nothing *\nestimator +pearson +estimator\ndit ", unstyle(screen.getvalue())
    )
    screen = terminal(30)
    print_tables(frames)
    assert unstyle(screen.getvalue()).split("\n\n")[1].startswith("nothing\nestimator")


def test_colours_are_for_terminals_and_no_color_takes_all_styles_away(terminal, monkeypatch):
    screen = terminal(80)
    say(("bold", "bold"))
    assert "\x1b[1m" in screen.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    screen, errors = terminal(80), Terminal()
    monkeypatch.setattr("sys.stderr", errors)
    say(("bold", "bold red"))
    print_table(FRAME, "title", dim=[0])
    complain("two\nlines", "error:", fg="red")
    assert "\x1b" not in screen.getvalue() + errors.getvalue()
    assert errors.getvalue() == "error: two lines\n"


@pytest.mark.parametrize("width", [100, 74, 40])
def test_the_comparison_fits_the_terminal(terminal, width):
    screen = terminal(width)
    statistic, undefined = {"mean": 0.91234, "std": 0.05678}, {"mean": float("nan"), "std": float("nan")}
    row = {m: statistic for m in ("pearson", "spearman", "kendall", "jaccard")} | {"seconds": 1.234}
    found = {
        "seeds": [0, 1], "reference": "loo", "accuracy": statistic,
        "estimators": {"dit": row, "loo": row | {"pearson": undefined}},
    }  # fmt: skip
    print_agreement(found)
    lines = [line.rstrip() for line in unstyle(screen.getvalue()).splitlines()]
    assert max(map(len, lines)) <= width
    assert any("0.912 ± 0.057" in line for line in lines) == (width != 74)
    assert any("91.2" in line for line in lines) and any("-" in line.split() for line in lines)


# progress -----------------------------------------------------------------------------------------


def test_progress_is_drawn_on_terminals_only_and_only_for_what_takes_long(terminal):
    for stream, after in ((StringIO(), 0.0), (Terminal(), 5.0)):
        with progress(stream, after):
            for _ in track(range(3), "work", 3):
                time.sleep(0.01)
        assert stream.getvalue() == ""
    terminal(100)
    with progress(stream := Terminal(), 0.0):
        for _ in track(range(2), "seeds", 2):
            for _ in track(range(2), "retraining", 2):
                time.sleep(0.3)
    drawn = unstyle(stream.getvalue())
    assert re.search(r"\S+ \d s, \d s left: seeds \d/2, retraining \d/2", drawn)
    assert stream.getvalue().endswith("\x1b[2K"), "nothing is left of the line"


@pytest.mark.parametrize("left", [0, 8])
def test_loops_that_are_left_early_are_over(left):
    loops = Loops()
    with listen(loops.update):
        for _ in track(range(2), "seeds", 2):
            for item in track(range(9), "training", 9):
                if item == left:
                    break
            assert re.search(r": seeds [12]/2$", loops.now()[1])
    assert loops.now() == (None, "0 s: working")


def test_the_time_left_is_the_outermost_loops_and_another_loop_begins_anew(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    loops = Loops()
    clock[0] = 5.0
    with listen(loops.update):
        announce("seeds", 0, 2)
        clock[0] += 30
        announce("training", 3, 4)
        assert loops.now() == (3 / 8, "30 s, 50 s left: seeds 1/2, training 4/4")
        announce("training", 4, 4)
        announce("retraining", 0, 4)
        clock[0] += 90
        assert loops.now() == (0.0, "2 min 0 s: seeds 1/2, retraining 1/4")
        announce("seeds", 2, 2)
        announce("chunks", 0, 5)
    assert loops.now() == (0.0, "0 s: chunks 1/5")
