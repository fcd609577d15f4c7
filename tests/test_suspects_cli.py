"""`suspects`: what it says of its cost, and the command with its files."""

import csv
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers_cli import fails
from helpers_cli import run as command
from helpers_suspects import N, taped, workload

import influencekit as ik
from influencekit._verbs.suspects import cost


@pytest.fixture(scope="module")
def run():
    return ik.record(workload())


def test_the_cost_is_said_before_what_takes_long(run, monkeypatch, capsys):
    ik.suspects(run, scores="final-loss", repeats=2, verify=0)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cost, "LONG", 0)
    ik.suspects(run, scores="final-loss", repeats=2, verify=0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("suspects: 6 trainings: about 0 s, beside what final-loss take")


CODE = """
import sys
sys.path.insert(0, {tests!r})
import torch
from helpers_suspects import linear, per_example, sample, training, workload

trusted = sample(50, 2)

def parts():
    return workload()

def small():
    return sample(10, 2)

def named_parts():
    return workload(train_ids=["=1+1", *map(str, range(1, 60))])

def taped_parts():
    return dict(model=linear(), loss=per_example, data=torch.utils.data.TensorDataset(*training()))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suspects")
    ik.record(workload(), store=folder / "run.zarr")
    (folder / "train.py").write_text(CODE.format(tests=str(Path(__file__).parent)), encoding="utf-8")
    return folder


def test_the_command_says_what_python_says_and_its_list_is_read_back(files, run, tmp_path):
    store, code, path = files / "run.zarr", files / "train.py", tmp_path / "wrong.csv"
    same = ik.suspects(run, repeats=2, verify=3)
    options = ["--code", f"{code}:parts", "--top", 3, "--repeats", 2]
    shown = command("suspects", store, *options, "--out", path).stdout
    assert same.verdict in shown.splitlines() and f"saved in {path}" in shown
    order = same["rank"].values.argsort()
    for j in order[:3]:
        assert f"{float(same.remove_effect[j]):+.2e}" in shown
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [str(same.train.values[j]) for j in order]
    for name in (
        "suspicion",
        "rank",
        "learnt",
        "remove_effect",
        "relabel_effect",
    ):
        values = np.array([float(row[name] or "nan") for row in rows])
        assert np.allclose(values, same[name].values[order], equal_nan=True), name
    for name in ("is_label_issue", "action", "given", "predicted"):
        assert [row[name] for row in rows] == [str(v) for v in same[name].values[order].tolist()], name
    marked = [row["id"] for row in rows if row["is_influence_issue"] == "True"]
    assert len(marked) == same.is_label_issue.sum() > 0
    gone = ik.remove(run, ids=path)
    assert sorted(map(str, gone.train.values)) == sorted(marked)
    assert gone.retrained.item() < 0
    assert not list(tmp_path.glob(".*"))


def test_names_that_are_formulas_are_escaped_where_asked(files, tmp_path):
    ik.record(workload(train_ids=["=1+1", *map(str, range(1, N))]), store=tmp_path / "named.zarr")
    options = ["--code", f"{files / 'train.py'}:named_parts", "--repeats", 2, "--top", 0]
    for more, name in (([], "=1+1"), (["--escape-formulas"], "'=1+1")):
        path = tmp_path / f"list{len(more)}.csv"
        command("suspects", tmp_path / "named.zarr", *options, "--scores", "final-loss", *more, "--out", path)
        with path.open(newline="", encoding="utf-8") as file:
            assert name in {row["id"] for row in csv.DictReader(file)}


def test_the_command_saves_the_whole_result(files, tmp_path):
    store, code = files / "run.zarr", f"{files / 'train.py'}:parts"
    path = tmp_path / "found.zarr"
    trusted = f"{files / 'train.py'}:trusted"
    command("suspects", store, "--code", code, "--trusted", trusted, "--repeats", 2, "--top", 0,
            "--scores", "final-loss,aum", "--out", path)  # fmt: skip
    saved = xr.open_zarr(path)
    assert saved.attrs["trusted"] == 50 and saved.by.values.tolist() == ["final-loss", "aum", "combined"]


def test_without_trusted_data_the_command_ranks_and_marks_nothing(files, tmp_path):
    taped(None, store=tmp_path / "taped.zarr")
    path, code = tmp_path / "wrong.csv", f"{files / 'train.py'}:taped_parts"
    options = ["--code", code, "--repeats", 2, "--scores", "final-loss"]
    shown = command("suspects", tmp_path / "taped.zarr", *options, "--out", path).stdout
    assert "none is marked" in shown and "suspicion" not in shown
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(row["action"], row["is_influence_issue"]) for row in rows} == {("keep", "False")}
    assert len(rows) == N and "suspicion" not in rows[0]


@pytest.mark.parametrize(("options", "said"), [
    (["--out", "x.txt"], "--out x.txt: expected a name that ends in .zarr, .nc, .csv"),
    (["--scores", "nonsense"], "nonsense"),
    (["--trusted", "small"], "expected at least 20 examples, got 10"),
    (["--repeats", 1], "repeats"),
])  # fmt: skip
def test_the_command_refuses_in_one_line_and_leaves_nothing(files, tmp_path, options, said):
    code = files / "train.py"
    options = [f"{code}:small" if each == "small" else each for each in options]
    out = [] if "--out" in options else ["--out", tmp_path / "list.csv"]
    error = fails("suspects", files / "run.zarr", "--code", f"{code}:parts", *options, *out, code=2)
    assert said in error and not list(tmp_path.iterdir())
