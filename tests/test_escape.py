"""What comes from a store, a file's name or a plugin is never acted upon by a terminal."""

import json
import pickle

import pytest
from helpers_cli import TINY, fails, run
from hypothesis import given
from hypothesis import strategies as st

import influencekit as ik
from influencekit._escape import shown
from influencekit.cli.console import complain, print_table, print_tables, say
from influencekit.cli.formats import to_json

EVIL = "a\x1b[2J\r\nb\x9b1m\u202ec\u2028\x00\udc80\x7f"
TEXT = st.text(st.characters(), max_size=30)


@given(TEXT)
def test_what_is_shown_is_printable_on_one_line_and_the_same_when_shown_again(text):
    once = shown(text)
    assert once.isprintable() and shown(once) == once
    assert once == text or not text.isprintable()


@given(TEXT)
def test_the_text_can_be_had_back_where_it_has_no_backslash(text):
    text = text.replace("\\", "")
    assert shown(text).encode("latin-1", "backslashreplace").decode("unicode_escape") == text


def test_letters_of_every_script_stay_as_they_are():
    assert shown("Zoë, 数据, данные, ±") == "Zoë, 数据, данные, ±"


@pytest.mark.parametrize("kind", [ik.InfluenceKitError, ik.InputError, ik.StoreError, ik.DivergedError])
def test_every_error_is_one_printable_line(kind):
    error = pickle.loads(pickle.dumps(kind(f"no example {EVIL}")))
    assert str(error) == f"no example {shown(EVIL)}" and str(error).isprintable()


@given(st.recursive(TEXT | st.floats() | st.none(), lambda x: st.lists(x) | st.dictionaries(TEXT, x)))
def test_json_reads_back_and_is_printable(value):
    text = to_json(value)
    assert all(line.isprintable() for line in text.split("\n"))
    plain = json.loads(json.dumps(value), parse_constant=lambda _: None)
    assert json.loads(text) == plain
    text.encode()  # no half of a surrogate pair


def test_everything_that_the_console_prints_is_escaped(capsys):
    from influencekit.cli.frames import pandas

    pd = pandas()
    frame = pd.DataFrame({EVIL: [EVIL]})
    say(EVIL, (EVIL, "bold"))
    complain(EVIL)
    print_table(frame, EVIL)
    print_tables({EVIL: frame})
    found = capsys.readouterr()
    assert found.out.count("\n") == 1 + 3 + 3 and found.err.count("\n") == 1
    assert all(line.isprintable() for text in found for line in text.splitlines())


def test_a_store_cannot_forge_a_line(tmp_path):
    work = ik.make("workload", TINY)
    ids = [f"{i}\x1b[31m\nreplay    all right" for i in range(work.n_train)]
    from dataclasses import replace

    ik.record(replace(work, train_ids=ids), store=tmp_path / "run.zarr")
    code = tmp_path / "train.py"
    code.write_text(
        "import influencekit as ik\nfrom dataclasses import replace\n"
        f"work = ik.make('workload', {TINY!r})\n"
        f"work = replace(work, train_ids={ids!r})\n"
    )
    lines = run("estimate", tmp_path / "run.zarr", "--code", f"{code}:work").stdout.splitlines()
    assert all(line.isprintable() for line in lines)
    assert any("\\x1b[31m\\nreplay    all right" in line for line in lines)
    assert not any(line.startswith("replay") for line in lines)


def test_a_name_that_is_typed_cannot_colour_an_error():
    assert "\\x1b[31m" in fails("compare", "mnist\x1b[31m", code=2)
    assert "\\x1b[31m" in fails("estimate", "no\x1b[31m.zarr", code=1)
    assert "\\x1b[31m" in fails("list", "\x1b[31m", code=2)
    assert "\\x1b[31m" in fails("\x1b[31m", code=2)
