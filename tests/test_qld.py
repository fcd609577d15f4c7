"""Query loss difference: beside slow retraining, in both directions of a query, kept, with its interval."""

from dataclasses import dataclass

import numpy as np
import pytest
import xarray as xr
from helpers_evaluation import additive, called, evaluated, set_effect, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

import influencekit as ik
from influencekit import InputError
from influencekit.evaluation import QLD, over_seeds, retraining
from influencekit.evaluation.qld import _counts
from influencekit.evaluation.retraining import random_sets

RUN = tiny()


@pytest.mark.parametrize("window", [ik.Window(0, 6), ik.Window(2, 5, "window")])
@pytest.mark.parametrize("asked", ["test-loss", "test-losses"])
def test_rises_are_those_of_a_plain_retraining_loop(asked, window):
    query = ik.make("query", asked)
    found = evaluated(RUN, QLD(fraction=(0.25, 0.4), draws=3), query, ["dit", "loo"], [window])
    assert found.k.values.tolist() == [2, 3]
    masks = random_sets(8, [2, 3] * 3, (0, RUN.workload.seed, 1))
    random = np.stack([set_effect(RUN.workload, query, window, m) for m in masks], 1).reshape(-1, 3, 2)
    np.testing.assert_allclose(found.control.values[:, :, 0], random.swapaxes(0, 1), atol=1e-12)
    for name in ("dit", "loo"):
        scores = ik.estimate(RUN, query, name, [window]).influence.values[:, 0]
        for q, row in enumerate(scores):
            for j, k in enumerate((2, 3)):
                mask = np.isin(np.arange(8), row.argsort()[::-1][:k])
                rise = set_effect(RUN.workload, query, window, mask)[q]
                here = found.sel(estimator=name).isel(query=q, window=0, fraction=j)
                assert float(here.rise) == pytest.approx(rise, abs=1e-12)
                assert float(here.qld) == pytest.approx(rise - random[q, :, j].mean(), abs=1e-12)


@dataclass(frozen=True)
class Turned(ik.Query):
    """The test losses with their sign turned: higher is better, or neither."""

    better: str | None = "higher"

    def labels(self, workload):
        return ik.make("query", "test-losses").labels(workload)

    def evaluate(self, workload, theta):
        return (-1 if self.better else 1) * workload.losses(theta, workload.test)


def test_the_direction_is_the_querys_own():
    """What is worse is the same of a loss and of its negative, and of a number that says nothing, a rise."""
    loss = evaluated(RUN, QLD(fraction=(0.25,), draws=4), "test-losses", ["dit"])
    for better, word in (("higher", "helpful"), (None, "raises")):
        found = evaluated(RUN, QLD(fraction=(0.25,), draws=4), Turned(better), ["dit"])
        for name in ("rise", "qld", "control", "bootstrap"):
            np.testing.assert_allclose(found[name], loss[name], atol=1e-12)
        assert found.attrs["removed"] == word


def test_where_effects_add_up_no_choice_beats_the_exact_scores():
    run, query = additive()
    found = evaluated(run, QLD(fraction=(0.1, 0.3), draws=30), query, ["loo", "dit"])
    assert (found.qld > 0).all() and (found.rise >= found.control - 1e-12).all()
    np.testing.assert_allclose(found.rise.sel(estimator="dit"), found.rise.sel(estimator="loo"), atol=1e-10)


def test_scores_that_know_nothing_have_an_interval_around_zero_and_the_truth_is_above_it():
    scores = ik.estimate(RUN, "test-loss", "loo")
    shuffled = scores.copy(deep=True)
    values = []
    for seed in range(12):
        shuffled.influence.values[:] = np.random.default_rng(seed).normal(size=shuffled.influence.shape)
        values.append(evaluated(RUN, QLD(fraction=(0.25,), draws=8), "test-loss", shuffled).qld.item())
    assert abs(np.mean(values)) < 4 * np.std(values) / 12**0.5
    evaluation = QLD(fraction=(0.25,), draws=28)
    (value,) = evaluation.figures(evaluated(RUN, evaluation, "test-loss", scores))["estimators"]["loo"]["qld"]
    assert value["low"] <= value["mean"] <= value["high"] and value["mean"] > max(values)


@settings(max_examples=20)
@given(st.integers(2, 30), st.integers(0, 99))
def test_weights_of_a_resample_are_those_of_a_mean(n, seed):
    weights = _counts(n, 50, (seed,))
    np.testing.assert_allclose(weights.sum(1), 1)
    assert (_counts(n, 50, (seed,)) == weights).all()


def test_the_interval_holds_draws_and_test_examples_and_is_their_two_way_bootstrap():
    found = evaluated(RUN, QLD(fraction=(0.25,), draws=6, resamples=400), "test-loss", ["dit"])
    effects = found.control.values[:, 0, 0, 0]
    spread = found.control_bootstrap.values[:, 0, 0].std()
    assert spread >= 0.8 * effects.std() / 6**0.5, "the draws alone give as much"
    one = evaluated(RUN, QLD(fraction=(0.25,), draws=6, resamples=400), "prediction:example=1", ["dit"])
    again = one.control_bootstrap.values[:, 0, 0]
    assert again.std() == pytest.approx(one.control.values[:, 0, 0, 0].std() / 6**0.5, rel=0.15)


def test_of_many_queries_some_are_drawn_and_each_has_its_own_choice():
    found = evaluated(RUN, QLD(fraction=(0.25,), draws=3, queries=2), "test-losses", ["dit"])
    assert found.sizes["query"] == 2 and found.rise.shape == (1, 2, 1, 1)
    every = evaluated(RUN, QLD(fraction=(0.25,), draws=3), "test-losses", ["dit"])
    xr.testing.assert_allclose(found.rise, every.rise.sel(query=found["query"]))


def test_retrained_models_are_kept_and_other_estimators_and_draws_add_to_them(tmp_path, monkeypatch):
    trained = []
    own = retraining._retrained
    monkeypatch.setattr(retraining, "_retrained", lambda *a: trained.append(len(a[1])) or own(*a))
    evaluation = QLD(fraction=(0.25, 0.4), draws=3)
    first = called(RUN, evaluation, "test-loss", ["dit"], folder=tmp_path)
    assert sum(trained) == 6 + 2
    xr.testing.assert_allclose(called(RUN, evaluation, "test-loss", ["dit"], folder=tmp_path), first)
    assert sum(trained) == 8, "nothing is trained twice"
    called(RUN, QLD(fraction=(0.25, 0.4), draws=5), "test-losses", ["dit"], folder=tmp_path)
    of_queries = sum(trained) - 8
    assert 4 <= of_queries <= 4 + 10, "two more draws of each size, and the choices of five queries"
    called(RUN, evaluation, "test-loss", ["dit", "if"], folder=tmp_path)
    assert sum(trained) - 8 - of_queries in (0, 2), "the other estimator's choice, unless it is the same"
    xr.testing.assert_allclose(evaluated(RUN, evaluation, "test-loss", ["dit"]).rise, first.rise)


def test_the_table_has_a_column_a_fraction_and_a_row_for_chance():
    evaluation = QLD(fraction=(0.25, 0.4), draws=3)
    each = [{"qld": evaluated(tiny(seed), evaluation, "test-loss", ["dit", "if"])} for seed in (0, 1)]
    both = over_seeds(each, [0, 1])["qld"]
    for result in (each[0]["qld"], both):
        table = evaluation.table(result)
        assert list(table.rows.columns) == ["top 2 of 8", "top 3 of 8"]
        assert list(table.rows.index) == ["dit", "if", "(rise without random)"]
        assert evaluation.plot(result) is not None
    value = evaluation.figures(both)["estimators"]["dit"]["qld"][1]
    assert value["mean"] == pytest.approx(both.qld.sel(estimator="dit").values[..., 1].mean())
    assert value["std"] > 0 and value["low"] < value["mean"] < value["high"]


def test_fractions_that_come_to_the_same_examples_are_one_removal_with_one_figure():
    """1 %, 5 % and 15 % of 8 examples are one example each."""
    found = evaluated(RUN, QLD(fraction=(0.01, 0.15, 0.05, 0.4), draws=3), "test-loss", ["dit"])
    assert found.k.values.tolist() == [1, 3] and found.fraction.values.tolist() == [0.15, 0.4]
    alone = evaluated(RUN, QLD(fraction=(0.15, 0.4), draws=3), "test-loss", ["dit"])
    xr.testing.assert_identical(found, alone)
    assert list(QLD().table(found).rows.columns) == ["top 1 of 8", "top 3 of 8"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"fraction": (0.25, 0.99)},
            "fraction 0.99 of 8 examples rounds to all 8 of them; take a smaller one",
        ),
        ({"fraction": (1.0,)}, "fraction must be different numbers above 0 and below 1.*got 1"),
        ({"fraction": ()}, "got none"),
        ({"fraction": (0.1, 0.1)}, r"got 0.1\+0.1"),
        ({"draws": 1}, "draws must be at least 2"),
        ({"queries": 0}, "queries must be at least 1"),
        ({"level": 1.0}, "level must be between 0 and 1"),
    ],
)
def test_bad_options_are_said_in_one_line(options, words):
    with pytest.raises(InputError, match=words) as caught:
        evaluated(RUN, QLD(**options))
    assert "\n" not in str(caught.value)


def test_a_result_of_something_else_is_refused():
    with pytest.raises(InputError, match="qld: expected a result of qld"):
        QLD().table(ik.estimate(RUN))


def test_the_csv_of_the_command_has_its_figures():
    from influencekit.cli.evaluations import _figures

    found = evaluated(RUN, QLD(fraction=(0.25, 0.5), draws=3))
    together = over_seeds([{"qld": found}], [0])["qld"]
    rows = _figures(together).query("figure == 'qld'")
    assert rows.fraction.unique().tolist() == [0.25, 0.5]
    assert rows.value.tolist() == pytest.approx(found.qld.values.ravel().tolist())
