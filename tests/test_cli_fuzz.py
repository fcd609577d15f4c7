"""Random command lines: no traceback, no raw error, no exit code that is not true (the benchmark, small)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # what is not installed

from benchmarks.cli_fuzz import Line, faults  # noqa: E402


def test_25_command_lines(tmp_path):
    """From a process of its own: what is forked from one that ran many threads may wait for ever."""
    code = (
        "import json, pathlib; from benchmarks.cli_fuzz import campaign; "
        f"print('FOUND', json.dumps(campaign(25, 20260, pathlib.Path({str(tmp_path)!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.partition("FOUND ")[2])
    assert found["wrong"] == []
    assert set(found["codes"]) == {"0", "1", "2"} and sum(found["codes"].values()) == 25


GOOD = Line(["estimate", "run.zarr", "--out", "{new}/x.csv"], True)
BAD = Line(["estimate", "none.zarr"], False)


@pytest.mark.parametrize(
    ("line", "code", "out", "errors", "said"),
    [
        (BAD, 0, "a table", "", "exit code 0 for what cannot work"),
        (GOOD, 1, "", "error: it cannot be done\n", "what can work is refused"),
        (GOOD, 0, "a table", "", "is not there"),
        (GOOD, 0, "", "", "nothing is printed"),
        (BAD, 1, "", "error: no such store\nerror: again\n", "not one line after error:"),
        (BAD, 1, "", "Traceback (most recent call last):\nValueError: no\n", "Traceback"),
        (BAD, 1, "", "error: ValueError: no; this is a bug, of influencekit\n", "this is a bug"),
        (BAD, 1, "", "error: no \x1b[31mred\n", "a control character is printed"),
        (BAD, 3, "", "error: no such store\n", "an exit code that means something else"),
        (BAD, 1, "half a table", "error: no such store\n", "something on stdout besides the error"),
        (Line(["compare", "--json", "-"], None), 0, "a table", "", "--json - is not JSON"),
    ],
)
def test_the_benchmark_sees_it(tmp_path, line, code, out, errors, said):
    words = [word.format(new=tmp_path) for word in line.words]
    assert any(said in fault for fault in faults(Line(words, line.works), code, out, errors, tmp_path))


def test_the_benchmark_sees_what_is_left_behind(tmp_path):
    assert not list(faults(BAD, 1, "", "error: no such store\n", tmp_path))
    (tmp_path / "left").mkdir()
    assert list(faults(BAD, 1, "", "error: no such store\n", tmp_path)) == ["left behind: ['left']"]
