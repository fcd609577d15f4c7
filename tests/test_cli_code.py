"""`--code FILE.py:NAME`: whatever the file does, the command ends with what was asked for, or one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers_cli import TINY, fails, run

GOOD = f"import influencekit as ik\nwork = ik.make('workload', {TINY!r}, setting='trained', seed=0)\n"
TWELVE = "x = 12\n"


@pytest.fixture
def asked(tmp_path, recorded):
    """asked(source of the file): the words of a command that verifies with it."""

    def asked(source, name="work"):
        file = tmp_path / "train.py"
        file.write_bytes(source if isinstance(source, bytes) else source.encode())
        return "verify", recorded, "--code", f"{file}:{name}"

    return asked


FAILS = {
    "raise SystemExit(0)": "ends the program when it is imported (SystemExit: 0)",
    "raise SystemExit(3)": "SystemExit: 3",
    "import sys; sys.exit('bye')": "SystemExit: bye",
    "exit()": "ends the program",
    "1 / 0": "failed with ZeroDivisionError: division by zero",
    "raise BaseException('no luck\\nat all')": "failed with BaseException: no luck",
    "raise GeneratorExit": "failed with GeneratorExit",
    "def work(): raise SystemExit(0)": "SystemExit: 0",
    "def work(): return work()": "RecursionError",
    "work = (": "SyntaxError",
    "\tx\n  y": "IndentationError",
    "import not_there_at_all": "No module named 'not_there_at_all'",
    "input()": "EOFError",
    "import sys; sys.stdin.buffer.read(1)[0]": "IndexError",
    "": "defines no work",
    "work = None": "got NoneType",
    "work = 3": "got int",
    "class work: pass": "got work",
    b"\x00\x01\x02": "failed with",
    b"\xff\xfe\x00": "failed with",
    "raise RuntimeError('\\x1b[31mred')": "\\x1b[31mred",
    "work = {'model': 3}": "was made by record()",
    "work = {}": "was made by record()",
    "work = {'store': 3}": "the dict has 'store'",
    "work = {1: 2}": "the dict has 1",
    "import influencekit as ik; ik.record(ik.make('workload', 'mnist-1v7-lr'))": "trains when it is imported",
}


@pytest.mark.parametrize("source", FAILS, ids=repr)
def test_code_that_gives_no_workload_is_one_line_and_never_success(asked, source):
    assert FAILS[source] in fails(*asked(source), code=2)


def test_a_folder_and_a_file_that_is_not_there(recorded, tmp_path):
    assert "but a folder" in fails("verify", recorded, "--code", f"{tmp_path}:work", code=2)
    assert "there is no file" in fails("verify", recorded, "--code", f"{tmp_path}/no.py:work", code=2)
    for text in ("work", ":work", "train.py:", "train.py:a-b", "train.py:a b", ""):
        assert "expected a file and a name in it" in fails("verify", recorded, "--code", text, code=2)


def table(path, array):
    Path(path).with_suffix(".csv").write_text("id\n4\n", encoding="utf-8")  # Python, too


@pytest.mark.parametrize("save", [np.savez, np.save, table])
def test_data_are_no_script(recorded, tmp_path, save):
    """An archive would be run for the program inside it. A script may have any name."""
    save(tmp_path / "t.npz", np.zeros(3))
    (file,) = tmp_path.glob("t.*")
    for option, call in (("--code", "verify"), ("--trusted", "curate")):
        line = fails(call, recorded, option, f"{file}:x", code=2)
        assert f"{file.name} is no Python file; expected a script and a name in it, such as train.py" in line
    (tmp_path / "script").write_text(GOOD)
    run("verify", recorded, "--code", f"{tmp_path / 'script'}:work")


def test_control_c_in_it_is_that_of_the_command(asked):
    result = run(*asked("raise KeyboardInterrupt"), code=130)
    assert result.stderr.splitlines()[-1] == "interrupted"


def test_what_it_prints_does_not_come_between_json(asked):
    _, store, *code = asked(
        f"print('begin')\n{GOOD}\nmade = work\ndef work():\n  print('made')\n  return made"
    )
    result = run("compare", store, *code, "--estimators", "if", "--json", "-")
    assert json.loads(result.stdout)["reference"] == "loo"
    assert result.stderr.splitlines() == ["begin", "made"]


def test_what_the_model_prints_while_it_is_used_does_not_either(asked):
    source = f"{GOOD}class Loud(type(work.model)):\n  def forward(self, x):\n    print('loud')\n"
    source += "    return super().forward(x)\nwork.model.__class__ = Loud\n"
    _, store, *code = asked(source)
    result = run("compare", store, *code, "--estimators", "if", "--json", "-")
    assert json.loads(result.stdout)["reference"] == "loo"
    assert "loud" in result.stderr.splitlines()


def test_a_model_that_ends_the_program_is_no_success(asked):
    source = f"{GOOD}import sys\nclass Ends(type(work.model)):\n  def forward(self, x):\n    sys.exit(0)\n"
    line = fails(*asked(source + "work.model.__class__ = Ends\n"), code=1)
    assert "ended the program before the work was done (SystemExit: 0)" in line
