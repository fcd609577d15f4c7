"""Around the commands: help, version, pipes, progress, the table's width; the reference page is current."""

import math
import re
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from helpers_cli import run

import influencekit as ik
from influencekit.cli import bar, cli, table
from influencekit.cli.parameters import Seeds
from influencekit.cli.reference import reference
from influencekit.progress import track

ROOT = Path(__file__).parents[1]


def test_help_is_there_in_half_a_second():
    """The bound of the issue; the best of three, because other work may be running beside the tests."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "influencekit.cli", "--help"], capture_output=True, check=True
        )
        times.append(time.perf_counter() - began)
    assert b"compare" in done.stdout
    assert min(times) < 0.5


def test_version():
    assert run("--version").stdout == f"influencekit {ik.__version__}\n"


def test_seeds_include_both_ends():
    assert Seeds().convert("0-15", None, None) == list(range(16))
    assert Seeds().convert("0-2,7", None, None) == [0, 1, 2, 7]


def test_a_reader_that_has_enough_ends_the_command_quietly():
    command = f"'{sys.executable}' -m influencekit.cli compare --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Usage: influencekit") and done.stderr == ""


class Terminal(StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_on_terminals_only_and_only_for_what_takes_long():
    for stream, after in ((StringIO(), 0.0), (Terminal(), 5.0)):
        with bar.progress(stream, after):
            for _ in track(range(3), "work", 3):
                time.sleep(0.01)
        assert stream.getvalue() == ""
    with bar.progress(stream := Terminal(), 0.0):
        for _ in track(range(2), "seeds", 2):
            for _ in track(range(2), "retraining", 2):
                time.sleep(0.15)
    assert "seeds 1/2 · retraining 2/2" in stream.getvalue() or "seeds 2/2 · retraining" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K"), "nothing is left of the line"


@pytest.mark.parametrize("left", [0, 8])
def test_loops_that_are_left_early_are_over_for_the_bar(left):
    line = bar.Bar(Terminal())
    with bar.listen(line.hear):
        for _ in track(range(2), "seeds", 2):
            for item in track(range(9), "training", 9):
                if item == left:
                    break
            assert "training" not in line.line() and "seeds 1/2" in line.line() or "seeds 2/2" in line.line()


@pytest.mark.parametrize("width", [None, 100, 74, 40])
def test_the_table_fits_the_terminal(width):
    statistic = {"mean": 0.91234, "std": 0.05678}
    row = {m: statistic for m in ("pearson", "spearman", "kendall", "jaccard")} | {"seconds": 1.234}
    found = {
        "seeds": [0, 1], "reference": "loo", "accuracy": statistic,
        "estimators": {"dit": row, "loo": row | {"pearson": {"mean": math.nan, "std": math.nan}}},
    }  # fmt: skip
    shown = table.compared(found, ["A title", "some words " * 12], ["a remark " * 12], width)
    lines = [re.sub(r"\x1b\[\d+m", "", line).rstrip() for line in shown.splitlines()]
    assert width is None or max(map(len, lines)) <= width
    assert any("0.912 ± 0.057" in line for line in lines) == (width != 74)
    assert any("91.2" in line for line in lines) and any("-" in line.split() for line in lines)


def test_the_reference_page_is_current():
    """Otherwise: python -m influencekit.cli.reference > docs/cli.md"""
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference()


def test_every_option_has_help():
    for name, command in cli.commands.items():
        assert command.short_help, name
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or parameter.help, (name, parameter.name)
