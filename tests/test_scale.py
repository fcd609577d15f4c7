"""The cost model: what follows it is predicted exactly, and its sizes grow as the formulas say."""

import sys
from dataclasses import replace
from math import log2
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))
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
