"""Harmful is who is better left out, whatever the query: beside plain retraining without the example."""

import csv
from dataclasses import dataclass

import numpy as np
import pytest
import xarray as xr
from helpers_cli import TINY, run
from helpers_evaluation import evaluated
from helpers_step import quick  # noqa: F401 (a fixture)

import influencekit as ik
from influencekit import SGD, InputError
from influencekit._direction import better_in, better_of
from influencekit._verbs.scored import ranked
from influencekit.cli.problems import WorkloadSource
from influencekit.evaluation import Brittleness, MislabelAUC, detection
from influencekit.testing.oracle import tiny_workload

pytestmark = pytest.mark.usefixtures("quick")


@dataclass(frozen=True)
class Negated(ik.Query):
    """Minus the mean test loss: the same question, asked the other way round."""

    better = "higher"

    def labels(self, workload):
        return ["minus the test loss"]

    def evaluate(self, workload, theta):
        return -workload.losses(theta, workload.test).mean(0, keepdim=True)


@dataclass(frozen=True)
class Odd(Negated):
    """It cannot say what it wants."""

    better = "smaller"


BETTER = {
    "test-loss": "lower", "test-losses": "lower", "alignment": "lower", "prediction:example=2": None,
    "parameter": None, "feature-importance": None, Negated(): "higher",
}  # fmt: skip


@pytest.fixture(scope="module")
def trajectory():
    return ik.record(tiny_workload(SGD(lr=0.2, momentum=0.5)))


@pytest.mark.parametrize("name", BETTER, ids=str)
def test_without_a_harmful_example_the_query_is_better_and_without_a_helpful_one_worse(trajectory, name):
    """Ranked by leave-one-out itself, so that each effect has its true sign."""
    query, better = ik.make("query", name) if isinstance(name, str) else name, BETTER[name]
    assert better_of(query) == better
    truth = ik.estimate(trajectory, query, "loo")
    mean = truth.influence.mean(("query", "window")).values
    wanted = {"lowers": mean.argmin(), "raises": mean.argmax()}
    if better:
        wanted["harmful"] = wanted["lowers" if better == "lower" else "raises"]
        wanted["helpful"] = wanted["raises" if better == "lower" else "lowers"]
    for which, first in wanted.items():
        found = ik.verify_top(trajectory, query, "loo", top=1, which=which)
        assert found.train.item() == truth.train.values[first] and found.attrs["which"] == which
        assert ranked(truth, which)[0] == first
    default = ik.verify_top(trajectory, query, "loo", top=1)
    assert default.attrs["which"] == ("harmful" if better else "lowers")
    assert default.train.item() == truth.train.values[wanted[default.attrs["which"]]]
    assert ("harmful" in truth.attrs["sign"]) == bool(better)


@pytest.mark.parametrize("which", ["harmful", "helpful"])
def test_where_neither_way_is_better_nobody_is_harmful(trajectory, which):
    for query in ("prediction:example=2", "parameter"):
        with pytest.raises(InputError, match=f"no example is {which}; write which='lowers' or 'raises'"):
            ik.verify_top(trajectory, query, which=which)
    with pytest.raises(InputError, match="query parameter does not say"):
        ranked(ik.estimate(trajectory, "parameter"), which)


def test_asked_the_other_way_round_the_same_examples_are_harmful(trajectory):
    loss, turned = ik.make("query", "test-loss"), Negated()
    for which in ("harmful", "helpful"):
        one, other = (ik.verify_top(trajectory, q, "dit", 4, which) for q in (loss, turned))
        assert one.train.values.tolist() == other.train.values.tolist()
        np.testing.assert_allclose(one.retrained, -other.retrained)
    one, other = (evaluated(trajectory, Brittleness(k=(1, 2)), q, ["dit"]) for q in (loss, turned))
    assert one.removed.values.tolist() == other.removed.values.tolist() == ["helpful", "harmful"]
    np.testing.assert_allclose(one.effect, -other.effect, atol=1e-14)
    one, other = (evaluated(trajectory, MislabelAUC(fraction=0.3), q, ["dit", "loo"]) for q in (loss, turned))
    xr.testing.assert_allclose(one.auc.drop_vars("query"), other.auc.drop_vars("query"))


def test_effects_of_a_query_without_direction_are_named_by_what_removal_does(trajectory):
    query = ik.make("query", "prediction:example=2")
    found = evaluated(trajectory, Brittleness(k=(1,)), query, ["loo"])
    truth = ik.estimate(trajectory, query, "loo").influence.values
    assert found.removed.values.tolist() == ["raises", "lowers"] and found.attrs["better"] == "none"
    np.testing.assert_allclose(found.effect.values.ravel(), [truth.max(), truth.min()], rtol=1e-9)


def test_a_query_that_says_something_else_is_refused_before_the_work(trajectory):
    with pytest.raises(InputError, match=r"Odd.better must be 'lower', 'higher' or None .* got 'smaller'"):
        ik.estimate(trajectory, Odd())


def test_detection_turns_the_scores_of_a_margin_round():
    mask = np.array([True, False, False, True])
    scores = xr.DataArray([3.0, 1.0, -1.0, 2.0], dims="train")
    assert detection(scores.assign_attrs(better="higher"), mask).auc == 1
    assert detection(scores, mask).auc == detection(scores.assign_attrs(better="lower"), mask).auc == 0


def test_results_saved_before_they_said_so_are_of_a_loss_or_of_no_direction(trajectory):
    assert better_in({"query": "test-loss"}) == better_in({"query": "test-losses"}) == "lower"
    assert better_in({"query": "margin:point=3"}) is None and better_in({}) is None
    scores = ik.estimate(trajectory, Negated())
    assert better_in(scores.attrs) == better_in(scores.influence.attrs) == "higher"
    assert better_in(ik.estimate(trajectory, "parameter").attrs) is None
    compared = ik.compare(trajectory.workload, ["dit"], query=Negated())
    assert better_in(compared.attrs) == better_in(compared.influence.attrs) == "higher"


# the command line --------------------------------------------------------------------------------------


@pytest.mark.parametrize("better", ["lower", "higher", None])
@pytest.mark.parametrize("asked", ["prediction:example=3", "test-loss"])
def test_what_is_printed_and_saved_goes_by_the_querys_direction(
    recorded, tmp_path, monkeypatch, asked, better
):
    monkeypatch.setattr(type(ik.make("query", asked)), "better", better)
    out = tmp_path / "scores.csv"
    more = ("--trust", "none", "--top", "3", "--verify-top", "3")
    shown = run("estimate", recorded, "--query", asked, "--out", out, *more).stdout
    effects = ik.estimate(ik.open(recorded, WorkloadSource(TINY)(0)), asked).influence.squeeze()
    order = effects.train.values[effects.values.argsort(kind="stable")].tolist()
    ranking = order[::-1] if better == "higher" else order
    assert [int(row["example"]) for row in csv.DictReader(out.open())] == ranking
    lines = shown.splitlines()
    title = "the 3 most harmful, " if better else "the 3 whose removal lowers it most, "
    start = next(k for k, line in enumerate(lines) if line.startswith(title)) + 2
    assert [int(line.split()[0]) for line in lines[start : start + 3]] == ranking[:3]
    head = next(line for line in lines if "most" in line)
    if better:
        harm = effects * (1 if better == "higher" else -1)
        assert head.split("  ")[0] == (
            "most harmful" if (harm > 0).any() else "most harmful: none (least helpful)"
        )
        assert head.rstrip().endswith("most helpful")
    else:
        assert head.startswith("removal lowers it most") and head.rstrip().endswith("removal raises it most")


def test_the_end_to_verify_is_chosen_by_word(recorded):
    more = ("--trust", "none", "--verify-top", "2")
    for flag, title in (("--helpful", "most helpful"), ("--raises", "whose removal raises it most")):
        assert f"the 2 {title}, retrained" in run("estimate", recorded, *more, flag).stdout
    result = run("estimate", recorded, "--query", "prediction:example=3", *more, "--helpful", code=2)
    assert "no example is helpful; write which='lowers' or 'raises'" in result.stderr
