"""Curation at the command line, its files, the plan of its cost, and the folder that it keeps."""

import csv
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers_cli import fails
from helpers_cli import run as command
from helpers_curate import N, sample, workload

import influencekit as ik
from influencekit._verbs.curate import cost

KS = (1, 3, 6, 12)


@pytest.fixture(scope="module")
def run():
    return ik.record(workload())


@pytest.fixture(scope="module")
def found(run):
    return ik.curate(run, choosers=["dit", "if"], k=KS, draws=3, folds=3)


def test_a_plan_is_said_before_what_takes_long(run, monkeypatch, capsys):
    ik.curate(run, k=(2,), draws=1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cost, "_LONG", 0)
    ik.curate(run, k=(2,), draws=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("curate: 2 sets are retrained, 2 at a time: about 0 s")
    monkeypatch.setenv("INFLUENCEKIT_PROGRESS", "0")
    ik.curate(run, k=(2,), draws=1)
    assert capsys.readouterr().err == ""


CODE = """
import sys
sys.path.insert(0, {tests!r})
from test_curate import few, sample, workload

trusted = sample(50, 2)

def parts():
    return workload()

def small():
    return few(10)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curated")
    ik.record(workload(), store=folder / "run.zarr")
    (folder / "train.py").write_text(CODE.format(tests=str(Path(__file__).parent)), encoding="utf-8")
    return folder


def test_the_command_says_what_python_says_and_its_list_is_read_back(files, run, found, tmp_path):
    store, code, path = files / "run.zarr", files / "train.py", tmp_path / "drop.csv"
    options = ["--code", f"{code}:parts", "--choosers", "dit,if", "--k", "1,3,6,12", "--draws", "3"]
    shown = command("curate", store, *options, "--out", path).stdout
    assert found.verdict in shown.splitlines() and f"saved in {path}" in shown
    for name in found.chooser.values:
        for k in KS:
            one = found.sel(chooser=name, k=k)
            assert f"{float(one.effect):+.3e}  {float(one.low):+.3e} to {float(one.high):+.3e}" in shown
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == ["id", "label", "influence_score", "is_influence_issue"] and len(rows) == N
    dropped = {row["id"] for row in rows if row["is_influence_issue"] == "True"}
    assert dropped == set(found.train.values[found.is_influence_issue.values])
    values = [float(row["influence_score"]) for row in rows]
    assert values == sorted(values)
    again = ik.remove(run, ids=path, parts=1)
    assert set(again.train.values) == dropped
    best = found.sel(chooser=found.attrs["chooser"], k=found.attrs["size"])
    mean = (float(best.effect) + float(best.choosing_effect)) / 2  # the halves are of one size
    assert again.retrained.item() == pytest.approx(mean, abs=1e-12)
    said = command("estimate", store, "--code", f"{code}:parts", "--remove", path, "--trust", "none").stdout
    assert f"without all {len(dropped)} examples of the set" in said


def test_the_command_takes_trusted_data_from_a_file(files, run, tmp_path):
    code, out = files / "train.py", tmp_path / "found.zarr"
    options = ["--code", f"{code}:parts", "--trusted", f"{code}:trusted", "--k", "2", "--seed", "3"]
    command("curate", files / "run.zarr", *options, "--out", out)

    saved, mine = xr.open_zarr(out), ik.curate(run, sample(50, 2), k=(2,), seed=3)
    np.testing.assert_array_equal(saved.effect, mine.effect)
    assert saved.attrs["verdict"] == mine.verdict


def test_the_command_refuses_in_one_line(files, tmp_path):
    store, code = files / "run.zarr", files / "train.py"
    base = ["curate", store, "--code", f"{code}:parts"]
    assert "--k 2,x: expected whole numbers" in fails(*base, "--k", "2,x", code=2)
    assert "--out here.txt: expected a name" in fails(*base, "--out", "here.txt", code=2)
    assert f"--trusted {code}:none: " in fails(*base, "--trusted", f"{code}:none", code=2)
    assert "got 10; half of them" in fails(*base, "--trusted", f"{code}:small", code=2)
    path = tmp_path / "list.csv"
    for text, said in (
        ("id,is_influence_issue\r\na,False\r\n", "marks no example"),
        ("id,is_influence_issue\r\na\r\n", "fewer cells than the head"),
        ("\n", "holds no example id"),
    ):
        path.write_text(text, encoding="utf-8")
        assert said in fails("estimate", store, "--code", f"{code}:parts", "--remove", path, code=2)
