"""Curation at the command line, its files, the plan of its cost, and the folder that it keeps."""

import csv
import tempfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers_cli import fails
from helpers_cli import run as command
from helpers_curate import N, sample, taped, workload
from hypothesis import given
from hypothesis import strategies as st

import influencekit as ik
from influencekit._verbs.curate import cost, retraining
from influencekit._verbs.removal_list import ids_in

KS = (1, 3, 6, 12)
SET_EFFECTS = retraining.set_effects


@pytest.fixture(scope="module")
def run():
    return ik.record(workload())


@pytest.fixture(scope="module")
def found(run):
    return ik.curate(run, choosers=["dit", "if"], k=KS, draws=3, folds=3)


def test_a_plan_is_said_before_what_takes_long(run, monkeypatch, capsys):
    ik.curate(run, k=(2,), draws=1, folds=3)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cost, "LONG", 0)
    ik.curate(run, choosers="loo,dit", k=(2,), draws=1, folds=3, runs=3)
    plan, scores = capsys.readouterr().err.splitlines()
    assert plan.startswith("curate: at most 15 sets are retrained in each of 3 runs, 15 at a time: about ")
    assert "; the scores of loo: about " in plan and "those of dit: 3 x a few training runs each" in plan
    assert scores.startswith("curate: the scores took ") and "in 2 more runs: about " in scores
    monkeypatch.setenv("INFLUENCEKIT_PROGRESS", "0")
    ik.curate(run, k=(2,), draws=1, folds=3)
    assert capsys.readouterr().err == ""


def test_the_plan_counts_what_will_be_trained(run):
    """105 sets are two rounds of 64 models, the 60 examples of `loo` one round."""
    plan = cost.plan_of(run, 105, "auto", {"loo": ik.make("estimator", "loo")}, 1)
    assert plan.together == 64 and plan.exact == ("loo",) and not plan.others
    assert plan.seconds == pytest.approx(2 * plan.exact_seconds) and plan.known >= plan.seconds


def failing(trainings, monkeypatch):
    """Lets so many calls that retrain sets through."""
    calls = []

    def counted(*given):
        calls.append(len(given[2]))
        if len(calls) > trainings:
            raise KeyboardInterrupt
        return SET_EFFECTS(*given)

    monkeypatch.setattr(retraining, "set_effects", counted)
    return calls


def test_a_call_that_was_stopped_goes_on_and_gives_the_same(run, tmp_path, monkeypatch):
    """Models are trained one by one, so they are kept by fours; in the fourth piece it ends."""
    options = {"choosers": "loo,dit", "k": (2, 5), "draws": 2, "folds": 3, "runs": 3, "strategy": "loop"}
    whole = ik.curate(run, **options)
    calls = failing(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        ik.curate(run, **options, folder=tmp_path / "kept")
    done = sum(calls[:3])
    assert len(calls) == 4 and 8 < done <= 12
    calls = failing(1000, monkeypatch)
    again = ik.curate(run, **options, folder=tmp_path / "kept")
    assert sum(calls) == whole.trainings - done
    for name in ("effect", "low", "high", "judged", "random", "influence"):
        np.testing.assert_allclose(again[name], whole[name], rtol=0, atol=1e-12, err_msg=name)
    calls = failing(0, monkeypatch)
    monkeypatch.setattr(ik.estimators.loo.LOO, "scores", None)  # they are kept, too
    kept = ik.curate(run, **options, folder=tmp_path / "kept")
    xr.testing.assert_identical(kept.effect, again.effect)
    assert calls == []


def test_the_folder_is_of_one_run_and_of_one_trusted_set(run, tmp_path):
    options = {"k": (2,), "draws": 1, "folds": 3, "folder": tmp_path / "kept"}
    ik.curate(run, **options)
    ik.curate(run, choosers="if", **options | {"k": (3,), "folds": 4})  # takes what is there
    with pytest.raises(ik.StoreError, match=r"something else: trusted differ.*; name a new folder"):
        ik.curate(run, sample(50, 2), **options)
    other = ik.record(workload(optimizer=ik.SGD(lr=0.4)))
    with pytest.raises(ik.StoreError, match="something else: .*learning rates"):
        ik.curate(other, **options)
    piece = next((tmp_path / "kept").glob("*.zarr")) / "zarr.json"
    piece.write_text(piece.read_text().replace("0", "1", 1))
    with pytest.raises(ik.StoreError, match="is damaged .*; delete it, and it is retrained"):
        ik.curate(run, **options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ik.StoreError, match="is not a folder of effects; name a new one"):
        ik.curate(run, **options | {"folder": tmp_path / "mine"})


CODE = """
import sys
sys.path.insert(0, {tests!r})
import torch
from helpers_curate import few, linear, mixed, other_classes, per_example, sample, training, workload

trusted = sample(50, 2)

def parts():
    return workload()

def small():
    return few(10)

def copies():
    return mixed(30)

def seven():
    return other_classes()

def forgot():
    few(50)

def taped_parts():
    return dict(model=linear(), loss=per_example, data=torch.utils.data.TensorDataset(*training()))
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
    options += ["--folds", "3", "--keep", tmp_path / "kept"]
    shown = command("curate", store, *options, "--out", path).stdout
    assert found.verdict in shown.splitlines() and f"saved in {path}" in shown
    for name in found.chooser.values:
        for k in KS:
            one = found.sel(chooser=name, k=k)
            assert f"{float(one.effect):+.3e}  {float(one.low):+.3e} to {float(one.high):+.3e}" in shown
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    head = ["id", "label", "influence_score", "is_influence_issue", "verified", "action"]
    assert [*rows[0]] == head and len(rows) == N
    dropped = {row["id"] for row in rows if row["is_influence_issue"] == "True"}
    assert dropped == set(found.train.values[found.is_influence_issue.values])
    assert dropped == {row["id"] for row in rows if row["action"] == "drop"}
    sure = {row["id"] for row in rows if row["verified"] == "True"}
    assert sure == set(found.train.values[found.verified.values])
    assert f"{len(sure)} of these {len(dropped)} are also in at least half of the sets" in shown
    values = [float(row["influence_score"]) for row in rows]
    assert values == sorted(values)
    again = ik.remove(run, ids=path, parts=1)
    assert set(again.train.values) == dropped
    best = found.sel(chooser=found.attrs["chooser"], k=found.attrs["size"])
    assert again.retrained.item() == pytest.approx(float(best.choosing_effect), abs=1e-12)
    said = command("estimate", store, "--code", f"{code}:parts", "--remove", path, "--trust", "none").stdout
    assert f"without all {len(dropped)} examples of the set" in said


def test_the_command_takes_trusted_data_from_a_file(files, run, tmp_path):
    code, out = files / "train.py", tmp_path / "found.zarr"
    options = ["--code", f"{code}:parts", "--trusted", f"{code}:trusted", "--k", "2", "--seed", "3"]
    command("curate", files / "run.zarr", *options, "--out", out)

    saved, mine = xr.open_zarr(out), ik.curate(run, sample(50, 2), k=(2,), seed=3)
    np.testing.assert_array_equal(saved.effect, mine.effect)
    assert saved.attrs["verdict"] == mine.verdict


@pytest.mark.parametrize(("options", "said"), [
    (["--k", "2,x"], "--k 2,x: expected whole numbers"),
    (["--k", "60"], "k must be different whole numbers from 1 to 59"),
    (["--trusted", "none"], "none: "),
    (["--trusted", "small"], "got 10; some of them choose"),
    (["--trusted", "forgot"], "forgot: expected a batch or a data set, got None; a function must return it"),
    (["--trusted", "copies"], "trusted: 30 of 240 examples are also trained on"),
    (["--trusted", "seven"], "have labels that no training example has (7)"),
    (["--choosers", "dit,,if"], "expected specs separated by single commas"),
    (["--choosers", "dti"], "no estimator named 'dti'"),
    (["--choosers", "dit,dit"], "dit stands twice"),
    (["--choosers", "dit,mean"], "'mean' is that of the others"),
    (["--folds", "2"], "folds must be from 3 to 60, got 2"),
    (["--level", "95"], "level must be"),
    (["--keep", "out.csv"], "is the same path as"),
])  # fmt: skip
def test_the_command_refuses_in_one_line_and_leaves_nothing(files, tmp_path, monkeypatch, options, said):
    store, code = files / "run.zarr", files / "train.py"
    monkeypatch.chdir(tmp_path)
    option, value = options
    value = f"{code}:{value}" if option == "--trusted" else value
    line = fails("curate", store, "--code", f"{code}:parts", option, value, "--out", "out.csv", code=2)
    assert said in line and list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder_that_keeps(files):
    store, code = files / "run.zarr", files / "train.py"
    line = fails("curate", store, "--code", f"{code}:parts", "--keep", code, code=1)
    assert f"{code} is a file: expected a folder that keeps what is done; name one, or a new path" in line
    assert code.is_file()


def test_without_trusted_data_the_command_says_what_they_are(files, tmp_path):
    taped(None, tmp_path / "taped.zarr")
    base = "curate", tmp_path / "taped.zarr", "--code", f"{files / 'train.py'}:taped_parts"
    line = fails(*base, "--out", tmp_path / "out.csv", code=2)
    assert "--trusted FILE.py:NAME" in line and "a test set, which is then split" in line
    assert not (tmp_path / "out.csv").exists()


def test_a_list_that_marks_nothing_or_is_none_is_refused(files, tmp_path):
    store, code = files / "run.zarr", files / "train.py"
    path = tmp_path / "list.csv"
    for text, said in (
        ("id,is_influence_issue\r\na,False\r\n", "marks no example"),
        ("id,is_influence_issue\r\na\r\n", "fewer cells than the head"),
        ("id,is_influence_issue\r\na,True\r\nb,y\r\n", "example 'b' is 'y'; expected true or false"),
        ("id,is_influence_issue\r\na,wahr\r\n", "example 'a' is 'wahr'; expected true or false"),
        ("id;is_influence_issue\r\na;True\r\n", "separated by semicolons; save the table with commas"),
        ("id\tis_influence_issue\r\na\tTrue\r\n", "separated by tabs; save the table with commas"),
        ("id,action\r\na,drop\r\n", "has no column is_influence_issue (the column action is for reading)"),
        ("id,score\r\na,1\r\n", "has no column is_influence_issue; add one with true"),
        ("id,is_influence_issue\r\na,True\r\na,False\r\n", "example 'a' stands twice, marked and not"),
        ("id,is_influence_issue\r\n,True\r\n", "a marked row has no id"),
        ("id,id,is_influence_issue\r\na,b,True\r\n", "the table has two columns id; keep one"),
        ("mine,\r\nid,is_influence_issue\r\na,True\r\n", "in the first line; got 'mine,'"),
        ("ID,is_influence_issue\r\na,True\r\n", "in the first line; got 'ID,is_influence_issue'"),
        ("id,is_influence_issue\r\nrow, 1,True\r\n", "a row has more cells than the head"),
        ('id,is_influence_issue\r\n" row, 1.0",True\r\n', "' row, 1.0'; did you mean 'row, 1'?"),
        ("\n", "holds no example id"),
    ):
        path.write_text(text, encoding="utf-8")
        assert said in fails("estimate", store, "--code", f"{code}:parts", "--remove", path, code=2)


@given(
    st.lists(
        st.tuples(st.text("ab,;'=\" ", min_size=1), st.sampled_from(range(9))),
        min_size=1,
        unique_by=lambda row: row[0],
    )
)
def test_marked_rows_of_any_table_are_read_back(rows):
    words = ["True", "yes", "1", "TRUE", "False", "no", "0", "", " false "]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["score", "id", "is_influence_issue"])
            table.writerows([0.5, name, words[k]] for name, k in rows)
        marked = [name for name, k in rows if k < 4]
        if marked:
            assert ids_in(path) == marked
        else:
            with pytest.raises(ik.InputError, match="marks no example"):
                ids_in(path)


def test_a_plain_list_of_ids_with_commas_is_no_table(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text('row, 1\n"row; 2\n# a note\n\nid\n', encoding="utf-8")
    assert ids_in(path) == ["row, 1", '"row; 2', "id"]


def test_the_command_refuses_a_format_that_it_does_not_write(files):
    assert "--out here.txt: expected a name" in fails(
        "curate", files / "run.zarr", "--out", "here.txt", code=2
    )
