"""`compare --evaluate`: the same figures as Python, in tables, JSON and files; mistakes said early."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers_cli import TINY, fails, run
from helpers_evaluation import evaluated

import influencekit as ik
from influencekit import plot
from influencekit.cli.problems import WorkloadSource
from influencekit.evaluation import LDS, Brittleness, TaylorSlope, bootstrap, retraining

ALL = "lds:m=12,leave-k-out:k=1+3:groups=5,brittleness:k=2,mislabel-auc:fraction=0.2,taylor"


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> tuple[Path, str]:
    """One comparison of two seeds with every evaluation: its folder and what was printed."""
    out = tmp_path_factory.mktemp("evaluate") / "out"
    shown = run(
        "compare", TINY, "--estimators", "dit,if", "--seeds", "0-1", "--evaluate", ALL, "--out", out,
        "--query", "prediction:example=3", "--subsets", out.with_name("subsets"),
    ).stdout  # fmt: skip
    return out, shown


def test_the_json_holds_the_figures_that_python_gives(compared):
    found = json.loads((compared[0] / "compare.json").read_text())["evaluation"]
    assert list(found) == ALL.split(",")
    runs = [ik.record(WorkloadSource(TINY)(seed)) for seed in (0, 1)]
    scores = [evaluated(each, LDS(m=12), "prediction:example=3", ["dit", "if", "loo"]) for each in runs]
    for e, name in enumerate(("dit", "if", "loo")):
        means = np.array([each["mean"].values[e, 0] for each in scores])
        row = found["lds:m=12"]["estimators"][name]["lds"]
        assert (row["mean"], row["std"]) == (pytest.approx(means.mean()), pytest.approx(means.std()))
        again = np.mean([each.bootstrap.values[:, e, 0] for each in scores], 0)
        each = [each.jackknife.values[:, e, 0] for each in scores]
        apart = np.concatenate([one - one.mean() for one in each])  # of every seed its own subsets
        ends = bootstrap.interval(means.mean(), again, apart, 0.95, 12)
        assert (row["low"], row["high"]) == pytest.approx(ends)
    curves = [evaluated(each, Brittleness(k=(2,)), "prediction:example=3", ["if"]) for each in runs]
    row = found["brittleness:k=2"]["estimators"]["if"]
    assert row["raises"][0]["mean"] == pytest.approx(np.mean([c.effect.values[0, 0] for c in curves]))
    assert row["lowers_flips"][0]["mean"] == pytest.approx(np.mean([c.flips.values[0, 1] for c in curves]))
    assert list(found["taylor"]["estimators"]) == ["dit"]
    slopes = [evaluated(each, TaylorSlope(), "prediction:example=3", "dit").slope.item() for each in runs]
    assert found["taylor"]["estimators"]["dit"]["slope"]["mean"] == pytest.approx(np.mean(slopes))
    assert found["leave-k-out:k=1+3:groups=5"]["k"] == [1, 3]
    one = found["leave-k-out:k=1+3:groups=5"]["estimators"]["loo"]
    assert one["pearson"][0]["mean"] == pytest.approx(1, abs=1e-3), "loo of one is retraining of one"
    assert found["mislabel-auc:fraction=0.2"]["corrupted"] == 4
    assert 0 <= found["mislabel-auc:fraction=0.2"]["control"]["auc"]["mean"] <= 1


def test_the_tables_stand_under_that_of_agreement(compared):
    out, shown = compared
    titles = [
        "agreement with loo", "Linear datamodeling score, 12 random subsets of 50 %",
        "Leave-k-out, 5 random groups of every k", "Brittleness: the effect on the query",
        "Mislabel AUC, 20 % of the labels flipped", "Taylor slope in float64", "saved in",
    ]  # fmt: skip
    places = [shown.index(title) for title in titles]
    assert places == sorted(places)
    lines = shown.splitlines()
    head = next(k for k, line in enumerate(lines) if re.fullmatch(r"estimator +lds +from +to", line))
    assert [line.split()[0] for line in lines[head + 1 : head + 4]] == ["dit", "if", "loo"]
    assert len({len(line) for line in lines[head : head + 4]}) == 1, "columns are flush right"
    assert re.search(r"(?m)^removal raises it most +dit +[+-]\d\.\d\de-\d\d ± ", shown)
    assert re.search(r"(?m)^flipped, random +mean of 8 +\d+\.\d ± \d+\.\d %$", shown)
    assert "left out: if does not claim first order; loo does not claim first order" in shown


def test_files_hold_every_seed_and_figure(compared):
    out, _ = compared
    names = [re.sub(r"[:]", "_", spec) for spec in ALL.split(",")]
    for name in names:
        saved = xr.open_zarr(out / f"evaluation-{name}.zarr", consolidated=False)
        assert saved.seed.values.tolist() == [0, 1] and set(saved.estimator.values) <= {"dit", "if", "loo"}
        assert (out / f"evaluation-{name}.png").read_bytes()[:4] == b"\x89PNG"
    saved = xr.open_zarr(out / "evaluation-lds_m=12.zarr", consolidated=False).load()
    rows = list(csv.DictReader((out / "evaluation-lds_m=12.csv").open()))
    some = [r for r in rows if (r["figure"], r["estimator"], r["seed"]) == ("lds", "if", "1")]
    assert [float(r["value"]) for r in some] == [saved.lds.sel(estimator="if", seed=1).item()]
    assert not any(r["figure"] in ("bootstrap", "predicted") for r in rows)


def test_plot_draws_them_again(compared, tmp_path):
    shown = run("plot", compared[0], "--out", tmp_path / "plots").stdout
    assert "evaluation-lds_m=12.png" in shown and "evaluation-taylor.png" in shown
    assert (tmp_path / "plots" / "evaluation-brittleness_k=2.png").exists()


def test_a_second_call_retrains_no_subset_again(compared, tmp_path, monkeypatch):
    subsets = compared[0].with_name("subsets")
    assert sorted(p.name for p in subsets.iterdir()) == ["seed-0", "seed-1"]
    names = sorted(p.name for p in (subsets / "seed-1").iterdir())
    assert names == ["lds", "leave-k-out-k_1+3"]

    def no(*_):
        raise AssertionError("retrained again")

    monkeypatch.setattr(retraining, "retrained", no)
    args = ("--evaluate", "lds:m=12", "--subsets", subsets, "--seeds", "0-1", "--json", "-")
    found = json.loads(run("compare", TINY, "--estimators", "if", *args).stdout)
    assert list(found["evaluation"]["lds:m=12"]["estimators"]) == ["if", "loo"]


def test_a_reference_of_some_examples_only_is_left_out_of_sums():
    shown = run(
        "compare", TINY, "--estimators", "dit", "--loo-examples", "5", "--evaluate", "lds:m=4,brittleness"
    ).stdout
    assert shown.count("left out: loo:examples=5 scored 5 of 24 examples only") == 2


MISTAKES = {
    "name": (["--evaluate", "lsd"], ["no evaluation named 'lsd'", "did you mean 'lds'", "brittleness"]),
    "option": (["--evaluate", "lds:n=3"], ["option of evaluation 'lds' named 'n'", "m=100, fraction=0.5"]),
    "value": (["--evaluate", "lds:m=many"], ["'m' expects a whole number", "'many'"]),
    "no value": (["--evaluate", "lds:m"], ["expected key=value in evaluation 'lds:m'"]),
    "option twice": (["--evaluate", "lds:m=3:m=4"], ["option 'm' stands twice in evaluation 'lds:m=3:m=4'"]),
    "empty": (["--evaluate", "lds,,taylor"], ["single commas"]),
    "twice": (["--evaluate", "lds,lds"], ["asked for twice"]),
    "few": (["--evaluate", "lds:m=1"], ["m must be at least 3, got 1"]),
    "fraction": (["--evaluate", "lds:fraction=1"], ["some of 24 examples in a subset", "got 1"]),
    "k": (["--evaluate", "brittleness:k=24"], ["k must be different whole numbers from 1 to 23", "got 24"]),
    "flips": (["--evaluate", "mislabel-auc:fraction=0.01"], ["fraction must flip at least one of 24"]),
    "old name": (
        ["--evaluate", "mislabel-auc:share=0.1"],
        ["option 'share' of evaluation 'mislabel-auc' is called 'fraction' now"],
    ),
    "claims": (["--evaluate", "taylor", "--estimators", "if"], ["none of if, loo claims first order"]),
    "nothing left": (
        ["--evaluate", "lds", "--estimators", "loo", "--loo-examples", "3"],
        ["lds: loo:examples=3 scored 3 of 24 examples only; nothing is left"],
    ),
    "folder alone": (["--subsets", "sets"], ["--subsets keeps what --evaluate retrains"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_said_in_one_line(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, words = MISTAKES[case]
    if "--estimators" not in args:
        args = [*args, "--estimators", "dit"]
    line = fails("compare", TINY, *args, "--out", "out", code=2)
    assert all(word in line for word in words), line
    assert not list(tmp_path.iterdir()), "nothing is left there"


@pytest.mark.parametrize("case", ["fraction", "k", "flips", "claims", "few"])
def test_options_are_found_wanting_before_anything_is_trained(case, monkeypatch):
    def no(*_, **__):
        raise AssertionError("trained")

    monkeypatch.setattr("influencekit._verbs.compare.record", no)
    fails("compare", TINY, *MISTAKES[case][0], code=2)


def test_a_foreign_folder_of_subsets_is_refused_in_one_line(compared):
    folder = compared[0].with_name("subsets")
    args = ("--estimators", "dit", "--evaluate", "lds:m=12", "--subsets", folder)
    line = fails("compare", TINY + ":lr=0.5", *args, code=1)
    assert "learning rates" in line and "differ" in line and "name a new folder" in line


# plots --------------------------------------------------------------------------------------------------


def test_plots_show_the_numbers_they_are_given(compared):
    def saved(name: str) -> xr.Dataset:
        return xr.open_zarr(compared[0] / f"evaluation-{name}.zarr", consolidated=False).load()

    sets = saved("lds_m=12")
    axes = plot.predicted(sets)
    assert [ax.get_title().split("\n")[0] for ax in axes] == ["dit", "if", "loo"]
    points = axes[0].collections[0].get_offsets()
    assert len(points) == sets.retrained.size
    np.testing.assert_allclose(np.sort(points[:, 1]), np.sort(sets.retrained.values.ravel()), rtol=1e-6)
    groups = plot.predicted(saved("leave-k-out_k=1+3_groups=5"))
    assert [t.get_text() for t in groups[0].get_legend().get_texts()] == ["k = 3", "k = 1"]
    curves = saved("brittleness_k=2")
    raises, lowers, flips, _ = Brittleness().plot(curves).axes
    drawn = {line.get_label(): line.get_ydata() for line in raises.lines}
    for name in ("dit", "if", "loo"):
        mean = curves.effect.sel(estimator=name, removed="raises").mean(("seed", "query", "window"))
        np.testing.assert_allclose(drawn[name], mean)
    np.testing.assert_allclose(drawn["random"], curves.control.mean(("seed", "draw", "query", "window")))
    assert flips.get_ylabel() == "predictions flipped, %" and lowers.get_xlabel() == "k"
    left = saved("taylor")
    (ax,) = TaylorSlope().plot(left).axes
    curve = ax.lines[0].get_ydata()
    np.testing.assert_allclose(np.log(curve), np.log(left.remainder[:, 0]).mean("seed"))
    assert re.match(r"dit, slope (1\.9|2\.0)", ax.get_legend().get_texts()[0].get_text())
