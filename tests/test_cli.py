"""The commands as a user meets them: what each prints and what it saves."""

import csv
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from helpers_cli import TINY, run

import influencekit as ik
from influencekit.cli import cli
from influencekit.cli.problems import WorkloadSource


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> tuple[Path, str]:
    """One comparison with everything switched on: its folder and what was printed."""
    out = tmp_path_factory.mktemp("compare") / "deep" / "out"
    shown = run(
        "compare", TINY, "--estimators", "dit,loo,sgd-influence", "--seeds", "0-1", "--out", out,
        "--json", out.parent.parent / "figures.json",
    ).stdout  # fmt: skip
    return out, shown


@pytest.fixture(scope="module")
def by_epoch(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "epochs"
    run(
        "compare",
        TINY,
        "--estimators",
        "dit",
        "--window",
        "each-epoch",
        "--query",
        "test-losses",
        "--out",
        out,
    )
    return out


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("record") / "run.zarr"
    run("record", TINY, "--store", path, "--recorder", "every-k:k=4", "--setting", "paper", "--seed", "3")
    return path


# compare ------------------------------------------------------------------------------------------


def test_the_json_has_the_documented_structure(compared):
    out, _ = compared
    found = json.loads((out / "compare.json").read_text())
    assert found == json.loads((out.parent.parent / "figures.json").read_text())
    assert list(found) == ["workload", "setting", "seeds", "reference", "accuracy", "estimators"]
    assert (found["workload"], found["setting"], found["seeds"]) == ("mnist-1v7-lr", "trained", [0, 1])
    assert found["reference"] == "loo" and set(found["accuracy"]) == {"mean", "std"}
    assert list(found["estimators"]) == ["dit", "loo", "sgd-influence"]
    for row in found["estimators"].values():
        assert list(row) == ["pearson", "spearman", "kendall", "jaccard", "seconds"]
        assert all(set(row[m]) == {"mean", "std"} for m in list(row)[:-1])
    assert found["estimators"]["loo"]["spearman"]["mean"] == pytest.approx(1)


def test_the_figures_are_those_of_the_scores(compared):
    """Mean and population deviation over seeds of Spearman's correlation, by scipy from what is saved."""
    from scipy.stats import spearmanr

    out, _ = compared
    scores = xr.open_zarr(out / "scores.zarr", consolidated=False).influence.squeeze(("query", "window"))
    rho = [
        spearmanr(scores.sel(estimator="dit", seed=s), scores.sel(estimator="loo", seed=s))[0] for s in (0, 1)
    ]
    found = json.loads((out / "compare.json").read_text())["estimators"]["dit"]["spearman"]
    assert found["mean"] == pytest.approx(np.mean(rho)) and found["std"] == pytest.approx(np.std(rho))


def test_the_table_says_what_was_compared_and_beware_of_what(compared):
    out, shown = compared
    lines = shown.splitlines()
    assert lines[0] == "mnist-1v7-lr, trained setting (MNIST 1 against 7)"
    assert "2 seeds (0-1); 6 steps" in lines[1] and "on c" in lines[1]
    assert lines[2] == "query test-loss; the whole run, global removal; all 24 training examples"
    assert lines[3].endswith("over the 2 seeds; jaccard: of the top 30 % by signed value")
    head = next(k for k, line in enumerate(lines) if line.startswith("estimator"))
    assert lines[head].split()[1:] == ["pearson", "spearman", "kendall", "jaccard", "accuracy", "seconds"]
    assert re.match(r"dit +0\.\d{3} ± 0\.\d{3} ", lines[head + 1])
    assert lines[head + 2].startswith("loo (reference)")
    assert len({len(line) for line in lines[head : head + 4]}) == 1, "columns are flush right"
    assert "same recursion" in shown and f"saved in {out}" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("top", "words"), [("abs", "the top 30 % by absolute value"), ("harmful", "the 30 % most harmful")]
)
def test_jaccard_is_of_the_examples_that_were_asked_for_and_says_so(tmp_path, top, words):
    shown = run("compare", TINY, "--estimators", "if", "--jaccard", top, "--out", tmp_path / "out").stdout
    assert f"agreement with loo; jaccard: of {words}\n" in shown
    found = xr.open_zarr(tmp_path / "out" / "scores.zarr", consolidated=False).load()
    turn = {"abs": abs, "harmful": lambda x: -x}[top]
    scores = found.influence.squeeze(("seed", "query", "window"))
    best = [set(turn(scores.sel(estimator=n).values).argsort()[::-1][:7]) for n in ("if", "loo")]  # 7 of 24
    expected = len(best[0] & best[1]) / len(best[0] | best[1])
    assert found.agreement.sel(estimator="if", metric="jaccard").item() == pytest.approx(expected)
    assert found.attrs["jaccard"] == words


def test_the_most_harmful_go_by_the_query_and_where_nobody_is_harmful_it_says_so():
    """Of a query of which more is better, those whose removal raises it are harmful: the highest scores."""

    class Gain(type(ik.make("query", "test-loss"))):
        better = "higher"

    class Change(Gain):
        better = None

    found = {top: ik.compare(TINY, ["if"], query=Gain(), top=top) for top in ("harmful", "signed")}
    xr.testing.assert_equal(found["harmful"].agreement, found["signed"].agreement)
    assert found["harmful"].attrs["jaccard"] == "the 30 % most harmful"
    with pytest.raises(ik.InputError, match="nobody is harmful; take signed or abs"):
        ik.compare(TINY, ["if"], query=Change(), top="harmful")


def test_a_tie_at_the_border_of_jaccard_is_said(tmp_path):
    """The examples that no batch holds have influence 0, all of them; here the border is among them."""
    problem = ik.make("workload", TINY)
    order = torch.tensor([[0, 1, 2, 3], [4, 0, 1, 2]])
    result = ik.compare(replace(problem, order=order, epochs=1), ["dit"], top="abs")
    assert result.ties.dims == ("estimator", "seed", "query", "window")
    assert (result.ties == 19).all(), "the highest 7 of 24: two of the 19 that are 0"
    clear = ik.compare(problem, ["dit"])
    assert clear.ties.max() < 19


def test_everything_is_saved_and_nothing_else_is_left(compared):
    out, _ = compared
    names = {p.name for p in out.iterdir()}
    assert {"scores.zarr", "ranking.csv", "agreement.csv", "compare.json", "agreement.png"} <= names
    assert {f"extremes-{n}.png" for n in ("dit", "loo", "sgd-influence")} <= names
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    for picture in out.glob("*.png"):
        assert picture.read_bytes()[:4] == b"\x89PNG"


def test_the_ranking_begins_with_the_most_harmful(compared):
    out, _ = compared
    rows = list(csv.DictReader((out / "ranking.csv").open()))
    assert list(rows[0]) == ["example", "label", "seed", "query", "window", "dit", "loo", "sgd-influence"]
    assert len(rows) == 2 * 24 and {row["window"] for row in rows} == {"step:0-6"}
    for seed in ("0", "1"):
        some = [row for row in rows if row["seed"] == seed]
        scores = [float(row["dit"]) for row in some]
        assert scores == sorted(scores)
        workload = WorkloadSource(TINY)(int(seed))
        assert {row["example"] for row in some} == {str(i) for i in workload.train_ids}
        classes = dict(zip(map(str, workload.train_ids), workload.train[1].tolist(), strict=True))
        assert all(row["label"] == ("7" if classes[row["example"]] else "1") for row in some)


def test_agreement_as_a_table_of_runs(compared):
    out, _ = compared
    rows = list(csv.DictReader((out / "agreement.csv").open()))
    assert len(rows) == 3 * 2 and {"spearman", "accuracy", "seconds", "removal"} <= set(rows[0])
    assert all(float(row["spearman"]) == pytest.approx(1) for row in rows if row["estimator"] == "loo")


def test_several_windows_add_a_list_and_a_timeline(by_epoch):
    found = json.loads((by_epoch / "compare.json").read_text())
    assert [w["window"] for w in found["windows"]] == ["step:0-3", "step:3-6"]
    assert [(w["start"], w["stop"], w["removal"]) for w in found["windows"]] == [
        (0, 3, "global"),
        (3, 6, "global"),
    ]
    means = [w["estimators"]["dit"]["pearson"]["mean"] for w in found["windows"]]
    assert found["estimators"]["dit"]["pearson"]["mean"] == pytest.approx(np.mean(means))
    assert (by_epoch / "timeline-dit.png").exists()
    assert xr.open_zarr(by_epoch / "scores.zarr", consolidated=False).sizes["query"] == 256


def test_json_to_stdout_is_json_and_nothing_else():
    result = run("compare", TINY, "--estimators", "dit", "--loo-examples", "8", "--json", "-")
    found = json.loads(result.stdout)
    assert found["reference"] == "loo" in found["estimators"] and result.stderr == ""


def test_undefined_agreement_is_null_and_a_dash():
    """A learning rate of nothing leaves every parameter where it is: all effects are 0, no ranking agrees."""
    args = ("compare", TINY + ":lr=1e-30", "--estimators", "dit", "--query", "parameter:index=784")
    found = json.loads(run(*args, "--json", "-").stdout)
    assert found["estimators"]["loo"]["pearson"] == {"mean": None, "std": None}
    shown = run(*args).stdout
    assert re.search(r"loo \(reference\) +- +- ", shown) and "undefined" in shown


def test_a_model_near_chance_is_called_so():
    shown = run(
        "compare", "mnist-1v7-lr:epochs=1:n_train=8:lr=1e-9", "--estimators", "dit", "--seeds", "1"
    ).stdout
    accuracy = float(re.search(r"(\d+\.\d) %", shown)[1])
    assert ("near chance (50 %)" in shown) == (accuracy < 60)
    assert accuracy < 60, "choose a seed whose untrained model guesses"


def test_compare_with_nothing_else_is_the_issues_command():
    """A real network in the setting that learns; DIT, influence functions, retraining."""
    defaults = {p.name: p.default for p in cli.commands["compare"].params}
    assert defaults["workload"] == "mnist-1v7-dnn" and defaults["estimators"] == "dit,if,loo"
    assert defaults["reference"] == "loo" and defaults["window"] == "full" and defaults["removal"] == "global"
    assert WorkloadSource(TINY)(0).info["setting"] == "trained"


def test_a_window_of_two_removals_agrees_with_python(tmp_path):
    """The CLI adds nothing to the numbers: the same call in Python gives the same scores."""
    run(
        "compare",
        TINY,
        "--estimators",
        "dit",
        "--window",
        "epoch:1-2",
        "--removal",
        "window",
        "--out",
        tmp_path / "o",
    )
    saved = xr.open_zarr(tmp_path / "o" / "scores.zarr", consolidated=False)
    python = ik.compare(WorkloadSource(TINY), ["dit"], windows=[ik.Window(3, 6, "window")])
    np.testing.assert_array_equal(saved.influence.values, python.influence.values)
    assert saved.attrs["sign"] == python.attrs["sign"]


# record, estimate, check, plot, list --------------------------------------------------------------


def test_a_recording_knows_how_to_be_opened_again(store):
    info = xr.open_zarr(store, consolidated=False).attrs["info"]
    assert info["spec"] == f"{TINY}:setting=paper" and info["draw_seed"] == 3
    shown = run("verify", store).stdout
    assert "all as committed" in shown and "6 steps trained again" in shown
    assert "each bit for bit as recorded" in shown and "paper setting" in shown


def test_a_window_of_a_run_is_recorded_and_estimated(tmp_path):
    path = tmp_path / "part.zarr"
    assert "states 3 to 6" in run("record", TINY, "--store", path, "--window", "epoch:1").stdout
    run("estimate", path, "--window", "epoch:1", "--removal", "window")
    refused = run("estimate", path, code=1).stderr
    assert "needs the states 0 to 6" in refused and refused.count("\n") == 1
    run("verify", path)


@pytest.mark.parametrize("ending", ["zarr", "nc", "csv"])
def test_estimates_are_saved_in_three_formats(store, tmp_path, ending):
    if ending == "nc":
        pytest.importorskip("h5netcdf")
    out = tmp_path / f"scores.{ending}"
    shown = run("estimate", store, "--out", out, "--top", "3").stdout
    assert "most harmful" in shown and "most helpful" in shown and f"saved in {out}" in shown
    assert [p.name for p in tmp_path.iterdir()] == [out.name]
    trajectory = ik.open(store, WorkloadSource(TINY, "paper")(3))
    expected = ik.estimate(trajectory).influence.values.ravel()
    if ending == "csv":
        found = [float(row["dit"]) for row in csv.DictReader(out.open())]
        np.testing.assert_array_equal(found, np.sort(expected), "with all their digits")
    else:
        saved = xr.load_dataset(out) if ending == "nc" else xr.open_zarr(out, consolidated=False)
        np.testing.assert_array_equal(saved.influence.values.ravel(), expected)
        assert saved.attrs["note_curvature"] == "hessian"


def test_the_printed_examples_are_the_extremes(store):
    lines = run("estimate", store, "--top", "2").stdout.splitlines()
    row = lines[next(k for k, line in enumerate(lines) if line.startswith("example")) + 1].split()
    scores = ik.estimate(ik.open(store, WorkloadSource(TINY, "paper")(3))).influence.squeeze()
    assert row[0] == str(scores.train.values[scores.values.argmin()])
    assert row[3] == str(scores.train.values[scores.values.argmax()])
    assert float(row[2]) == pytest.approx(float(scores.min()), rel=1e-3)


def test_saved_scores_are_plotted(compared, store, tmp_path):
    out, _ = compared
    shown = run("plot", out, "--out", tmp_path / "plots").stdout
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {p.name for p in out.glob("*.png")}
    assert "agreement.png" in shown
    run("estimate", store, "--out", tmp_path / "scores.zarr")
    run("plot", tmp_path / "scores.zarr")
    assert [p.name for p in (tmp_path / "scores-plots").iterdir()] == ["extremes-dit.png"]


@pytest.mark.parametrize("kind", ["estimator", "queries", "recorders", "workloads"])
def test_list_shows_names_summaries_and_options(kind):
    shown = run("list", kind).stdout
    expected = {
        "estimator": ("dit", "curvature=hessian"), "queries": ("prediction", "example=0"),
        "recorders": ("every-k", "k=20"), "workloads": ("mnist-1v7-dnn", "setting=paper"),
    }  # fmt: skip
    assert all(word in shown for word in expected[kind])
    assert sum(line.isupper() for line in shown.splitlines()) == 1


# elsewhere ---------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_cuda_gives_the_scores_of_the_cpu(tmp_path):
    """Float32 sums in another order: agreement to a small share of the largest score."""
    found = []
    for device in ("cpu", "cuda"):
        run("compare", TINY, "--estimators", "dit,loo", "--device", device, "--out", tmp_path / device)
        found.append(xr.open_zarr(tmp_path / device / "scores.zarr", consolidated=False).influence.values)
    np.testing.assert_allclose(found[1], found[0], atol=1e-3 * np.abs(found[0]).max())
    assert os.listdir(tmp_path / "cuda")
