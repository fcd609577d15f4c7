"""The cost model: what follows it is predicted exactly, and its sizes grow as the formulas say."""

import sys
from dataclasses import replace
from math import log2
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))
from benchmarks import scale  # noqa: E402
from benchmarks.shared.cost_model import COSTS, Cost, predicted, simulated  # noqa: E402


def made(n: int, batch: int = 100) -> Cost:
    """A run whose costs are those of the model."""
    steps = n // batch
    size = {"losses": 4.0 * n + 300, "indices": 1.1 * (steps * batch + n) * log2(n) / 8}
    return Cost(n, steps, batch, {"seconds": {"sweep": 0.2 + 0.003 * steps}, "bytes": size})


def test_costs_that_follow_the_model_are_predicted_exactly():
    costs = {n: made(n) for n in (3000, 10_000, 300_000, 1_000_000)}
    found = predicted(costs)
    assert set(found) == {300_000, 1_000_000}
    for n, kinds in found.items():
        for kind, values in kinds.items():
            assert values == pytest.approx(costs[n].found[kind], rel=1e-9)


@pytest.mark.parametrize("name", COSTS)
def test_twice_the_examples_cost_twice_as_much_and_exact_loo_four_times(name):
    once, twice = simulated(COSTS[name]), simulated(replace(COSTS[name], n=2 * COSTS[name].n))
    for what in ("train_seconds", "sweep_seconds", "contributions_bytes", "plan_bytes", "scores_bytes"):
        assert twice[what] == pytest.approx(2 * once[what])
    assert twice["loo_of_all_years"] == pytest.approx(4 * once["loo_of_all_years"])


@pytest.mark.parametrize("name", COSTS)
def test_a_column_costs_transfers_and_one_node_has_none(name):
    run = COSTS[name]
    alone = simulated(replace(run, nodes=1))
    assert alone["sweep_transfer_fraction"] == 0 == alone["train_transfer_fraction"]
    more = simulated(replace(run, nodes=64, columns=10)), simulated(replace(run, nodes=64))
    assert more[0]["sweep_seconds"] > more[1]["sweep_seconds"]
    assert more[0]["contributions_bytes"] == 10 * more[1]["contributions_bytes"]


def test_the_benchmark_measures_what_the_model_predicts():
    found = scale.measure(400, 0, ("record", "open", "sweep", "contributions"))
    assert found["steps"] == 4 and set(found["seconds"]) == {"record", "open", "sweep", "contributions"}
    assert all(found["bytes"][name] > 0 for name in scale.BYTES)


def test_an_answer_says_how_far_the_model_is(monkeypatch, tmp_path):
    def one(n, rounds, processes):
        seconds = {name: 0.1 + n / 1e4 for name in scale.WORK}
        return {"steps": n // 100, "seconds": seconds, "bytes": {"losses": 4 * n}}

    monkeypatch.setattr(scale, "together", one)
    exact = scale.answer("400,800,8000", 1, None, 1)
    assert exact["points"]["400"]["predicted"] is None
    assert max(exact["largest_error"].values()) == pytest.approx(0, abs=1e-9)
    slow = {**one(8000, 1, 1), "seconds": dict.fromkeys(scale.WORK, 1.8)}  # twice as slow as predicted
    monkeypatch.setattr(scale, "together", lambda n, *more: slow if n == 8000 else one(n, *more))
    errors = scale.answer("400,800,8000", 1, None, 1)["largest_error"]
    assert errors["seconds"] == pytest.approx(0.5) and errors["ratios"] == pytest.approx(0, abs=1e-9)
