"""Files that name parts of examples: what `estimate --parts --out` writes is what `--remove` reads."""

import csv
import runpy
import tempfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers_cli import fails
from helpers_cli import run as cli
from helpers_parts import LENGTHS, recorded
from hypothesis import given
from hypothesis import strategies as st

import influencekit as ik
from influencekit._verbs.removal_list import ids_in


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """`estimate STORE --code FILE --parts` of the run that `helpers_parts.recorded` gives."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "train.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from helpers_parts import LOSSES, OPTIMIZERS, inputs, model, texts\nimport influencekit as ik\n"
        "work = ik.Workload(model=model(), loss=LOSSES['mean'], train=inputs(texts()),"
        " test=inputs(texts(1)), optimizer=OPTIMIZERS['sgd'], epochs=2, batch_size=3, drop_last=True)\n"
    )
    ik.record(runpy.run_path(str(folder / "train.py"))["work"], store=folder / "run.zarr")
    return ["estimate", str(folder / "run.zarr"), "--code", f"{folder / 'train.py'}:work", "--parts"]


@pytest.fixture(scope="module")
def run():
    return recorded()


def written(path, rows, head=("id", "part")):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    return path


@pytest.mark.parametrize("window", ["full", "each-epoch"])
def test_the_table_of_verified_parts_is_read_back_by_command_and_verb(asked, run, tmp_path, window):
    """It marks those without which the query is better, in every window."""
    table, query = tmp_path / "parts.csv", "test-loss"
    cli(*asked, "--verify-top", "6", "--window", window, "--out", table)
    top = ik.verify_top(run, query, top=6, windows=window, parts=True)
    better = top.retrained.mean(("query", "window")).values < 0
    rows = list(zip(top.id.values[better].tolist(), top.part.values[better].tolist(), strict=True))
    assert 0 < len(rows) and sorted(ids_in(table)) == sorted((str(i), p) for i, p in rows)
    wanted = ik.remove(run, query, rows, windows=window)
    xr.testing.assert_identical(ik.remove(run, query, table, windows=window), wanted)
    out = tmp_path / "removed.zarr"
    shown = cli(*asked, "--remove", table, "--window", window, "--out", out).output
    assert f"without all {len(rows)} parts of the set, retrained" in shown and wanted.verdict in shown
    saved = xr.open_zarr(out, consolidated=False).load()
    assert saved.removed.dims == ("train", "part") and int(saved.removed.sum()) == len(rows)
    assert all(saved.removed.values[row] == 1 for row in rows)
    np.testing.assert_array_equal(saved.removed_part.values, wanted.part.values)
    for name in ("estimate", "retrained", "part_estimate", "part_retrained"):
        np.testing.assert_array_equal(saved[f"removed_{name}"].values, wanted[name].values)


def test_parts_on_moved_runs_are_printed_and_saved(asked, run, tmp_path):
    table, out = written(tmp_path / "rows.csv", [(0, 2), (3, 4)]), tmp_path / "scores.csv"
    shown = cli(*asked, "--remove", table, "--runs", "3", "--out", out).output
    wanted = ik.remove(run, "test-loss", [(0, 2), (3, 4)], runs=3)
    assert wanted.verdict in shown and "mean of 2 moved runs" in shown
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == sum(LENGTHS) and "is_influence_issue" not in rows[0]
    assert {(r["id"], r["part"]) for r in rows if r["removed"] == "1"} == {("0", "2"), ("3", "4")}
    assert all(r["example"] == f"{r['id']}[{r['part']}]" for r in rows)


WRONG = [
    ("0\n3\n", "names no parts: expected a table with the columns id and part"),
    ("id,is_influence_issue\n0,true\n", "names no parts: expected a table with the columns id and part"),
    ("id;part\n0;1\n", "separated by semicolons; save the table with commas"),
    ("id,part\n0,99\n", "example '0' has no part 99; its parts are [0, 1, 2, 3, 4, 5]"),
    ("id,part\n0,-1\n", "example '0' has no part -1"),
    ("id,part\n99,0\n", "no training example '99'; there are 8"),
    ("id,part\n0,1\n3,2\n0,1\n", "part 1 of example '0' comes twice"),
    ("id,part\n0,first\n", "part of example '0' is 'first'; expected a whole number"),
    ("id,part\n0,1.5\n", "part of example '0' is '1.5'; expected a whole number"),
    ("id,part\n0\n", "a row has fewer cells than the head"),
    ("id,part\n", "holds no part: nothing is to drop"),
    ("id,part,is_influence_issue\n0,1,no\n", "marks no part (is_influence_issue is false in all rows)"),
    ("id,part,dit\n0,1,0.1\n", "has no column is_influence_issue; add one with true in the rows to drop, or"),
    (None, "cannot be read: No such file"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_files_that_name_no_parts_of_this_run_are_refused_in_one_line(asked, tmp_path, text, said):
    path = tmp_path / "rows.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    out = tmp_path / "scores.zarr"
    line = fails(*asked, "--remove", path, "--out", out, code=2)
    assert said in line and not out.exists()


def test_parts_for_examples_are_refused(asked, tmp_path):
    table = written(tmp_path / "rows.csv", [(0, 2, "true")], ("id", "part", "is_influence_issue"))
    line = fails(*asked[:-1], "--remove", table, code=2)
    assert "names parts of examples, in its column part; take --parts as well" in line
    every = written(tmp_path / "all.csv", [(i, p) for i, n in enumerate(LENGTHS) for p in range(n)])
    assert "are all that the run trains on" in fails(*asked, "--remove", every, code=2)


@given(
    st.lists(st.tuples(st.text("ab,;'=\" 1", min_size=1), st.integers(0, 9)), min_size=1, unique=True),
    st.data(),
)
def test_any_parts_are_read_back_with_marks_or_without(rows, data):
    """Rows of several windows name a part once; the others are those that are not marked."""
    marks = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    with tempfile.TemporaryDirectory() as folder:
        plain = written(Path(folder) / "plain.csv", rows)
        assert ids_in(plain) == ids_in(plain, parts=True) == rows
        many = [(w, *row, mark) for w in "xy" for row, mark in zip(rows, marks, strict=True)]
        table = written(Path(folder) / "table.csv", many, ("window", "id", "part", "is_influence_issue"))
        marked = [row for row, mark in zip(rows, marks, strict=True) if mark]
        if marked:
            assert ids_in(table) == marked
        else:
            with pytest.raises(ik.InputError, match="marks no part"):
                ids_in(table)
