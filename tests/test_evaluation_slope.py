"""The Taylor slope is 2 for the derivative and 1 for anything else, above rounding, on the user's own run."""

import numpy as np
import pytest
from helpers_cli import TINY
from helpers_evaluation import WINDOWS, Wrong, evaluated, set_effect, tiny
from hypothesis import given
from hypothesis import strategies as st

import influencekit as ik
from influencekit.cli.problems import WorkloadSource
from influencekit.evaluation import TaylorSlope
from influencekit.evaluation.taylor import _slope
from influencekit.testing import tiny_workload


@pytest.mark.parametrize("windows", WINDOWS)
def test_the_taylor_slope_of_dit_is_two_and_of_scores_a_hundredth_too_large_one(windows):
    found = evaluated(tiny(), TaylorSlope(), "test-losses", ["dit", Wrong()], WINDOWS[windows])
    assert float(found.slope[0]) == pytest.approx(2, abs=0.1)
    assert float(found.slope[1]) == pytest.approx(1, abs=0.1)
    assert float(found.smooth_below[0]) >= 1e-2 and np.isnan(found.smooth_below[1])


def test_of_adam_with_a_small_eps_the_slope_is_two_though_large_steps_do_not_show_it():
    """Adam divides by sqrt(v) + eps, so weight changes are small only where gradients change by less."""
    found = evaluated(ik.record(tiny_workload(ik.Adam(lr=0.05, eps=1e-4))), TaylorSlope(), "test-loss", "dit")
    assert float(found.slope[0]) == pytest.approx(2, abs=0.1)
    large = np.diff(np.log(found.remainder.values[0])) / np.diff(np.log(found.h.values))
    assert abs(large[0] - 2) > 0.3 and float(found.smooth_below[0]) < 0.1


def test_the_remainder_is_the_oracles_at_every_step():
    run, query, window = tiny(), ik.make("query", "test-losses"), ik.Window(0, 6)
    found = evaluated(run, TaylorSlope(smallest=1e-3), query, ["dit"])
    scores = ik.estimate(run, query, "dit").influence.values[:, 0]
    for h, left in zip(found.h.values, found.remainder.values[0], strict=True):
        each = [set_effect(run.workload, query, window, h * d) - h * scores @ d for d in found.weights.values]
        assert left == pytest.approx(np.linalg.norm(each), rel=1e-6, abs=1e-14)


def test_a_run_in_single_precision_is_looked_at_in_double():
    run = ik.record(WorkloadSource(TINY)(0))
    found = evaluated(run, TaylorSlope(), "test-loss", "dit")
    assert found.attrs["dtype"] == "float64" and found.slope.item() == pytest.approx(2, abs=0.15)
    own = evaluated(run, TaylorSlope(precision="own"), "test-loss", "dit")
    assert own.attrs["dtype"] == "float32" and float(own.noise) > 1e4 * float(found.noise)
    assert not own.slope_to.item() <= found.slope_to.item(), "rounding is reached much earlier, or at once"


@given(st.floats(0.5, 3), st.floats(-3, 3), st.integers(0, 12))
def test_the_slope_is_the_power_of_h_above_rounding(power, scale, reached):
    h = np.geomspace(0.1, 1e-7, 13)
    left = np.exp(scale) * h**power
    noise = left[reached] / 29 if reached < 12 else 0.0  # from here on it does not count
    slope, high, low, smooth = _slope(h, left, noise)
    if reached < 2:
        assert np.isnan([slope, high, low, smooth]).all()
        return
    last = reached if reached < 12 else 13
    assert slope == pytest.approx(power)
    assert (high, low) == (h[last - 2], h[last - 1])
    assert smooth == (h[0] if abs(power - 2) < 0.2 else pytest.approx(np.nan, nan_ok=True))


def test_who_does_not_claim_first_order_is_left_out_with_its_reason():
    found = evaluated(tiny(), TaylorSlope(), "test-loss", ["dit", "if"])
    assert found.estimator.values.tolist() == ["dit"]
    assert found.attrs["left_out"] == "if does not claim first order"
