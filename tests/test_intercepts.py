"""The intercept of scores for sets goes wherever the scores go, and scores that have lost it are refused."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers_cli import TINY, run

import influencekit as ik
from influencekit import InputError

SETS = "dit:centre=0.5"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("intercepts") / "run.zarr"
    run("record", TINY, "--store", path)
    return path


@pytest.fixture(scope="module")
def trajectory():
    return ik.record(ik.make("workload", TINY, setting="trained"))  # as the command does


def test_the_table_of_estimate_sums_to_what_remove_says(store, trajectory, tmp_path):
    run("estimate", store, "--estimator", SETS, "--out", tmp_path / "scores.csv")
    table = pd.read_csv(tmp_path / "scores.csv", dtype={"example": str})
    assert table.intercept.nunique() == 1 and len(table) == 24
    some = table[:5]
    found = ik.remove(trajectory, ids=some.example.tolist(), estimator=SETS, parts=1)
    assert some[SETS].sum() + some.intercept[0] == pytest.approx(found.estimate.item(), rel=1e-5)
    run("estimate", store, "--out", tmp_path / "plain.csv")
    assert "intercept" not in pd.read_csv(tmp_path / "plain.csv")


def test_each_file_of_compare_has_it(store, trajectory, tmp_path):
    windows = ("--window", "step:0-3,step:0-6")
    run("compare", store, "--estimators", f"dit,{SETS}", *windows, "--out", tmp_path / "out")
    scores = ik.estimate(trajectory, "test-loss", SETS, "step:0-3,step:0-6")
    wanted = scores.intercept.values[0]
    rows = pd.read_csv(tmp_path / "out/agreement.csv").set_index(["estimator", "window"]).intercept
    assert rows[SETS].tolist() == pytest.approx(wanted, rel=1e-5) and not rows["dit"].any()
    ranking = pd.read_csv(tmp_path / "out/ranking.csv").groupby("window", sort=False)
    assert ranking[f"intercept of {SETS}"].first().tolist() == pytest.approx(wanted, rel=1e-5)
    assert "intercept of dit" not in ranking.first()
    found = json.loads((tmp_path / "out/compare.json").read_text())
    assert found["intercept"].keys() == {SETS}
    assert found["intercept"][SETS]["mean"] == pytest.approx(wanted.mean(), rel=1e-5)
    each = [window["intercept"][SETS]["mean"] for window in found["windows"]]
    assert each == pytest.approx(wanted, rel=1e-5)


def test_scores_that_have_lost_it_are_refused(trajectory):
    whole = ik.estimate(trajectory, "test-loss", SETS)
    lost, ids = whole[["influence"]], trajectory.workload.train_ids[:3]
    both = ik.compare(trajectory, ["dit", SETS]).isel(seed=0)
    calls = [
        lambda: ik.remove(trajectory, ids=ids, estimator=lost),
        lambda: ik.trust(trajectory, estimator=lost),
        lambda: ik.evaluate(trajectory, "lds:m=4", scores=lost),
        lambda: ik.evaluate(trajectory, "lds:m=4", scores=both.drop_vars("intercept")),
    ]
    for call in calls:
        with pytest.raises(InputError, match="need their intercept, which these have lost") as error:
            call()
        assert "\n" not in str(error.value)
    plain = ik.estimate(trajectory)[["influence"]]  # which has none to lose
    assert np.isfinite(ik.remove(trajectory, ids=ids, estimator=plain, parts=1).estimate)


def test_a_number_for_sets_is_not_called_the_effect_of_an_example(store):
    out = run("estimate", store, "--estimator", SETS).output
    assert "without the example" not in out and "+ the sum of these over the set" in out
    assert "effect = the query without the example minus with it" in run("estimate", store).output
