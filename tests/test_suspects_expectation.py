"""What planted labels let one expect: laws of plain arrays, whose wrong labels are known."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from influencekit._verbs.suspects.calibration import depth_of, normal_scores
from influencekit._verbs.suspects.expectation import (
    Mixture,
    expected,
    fraction_wrong,
    most_wrong,
    suspicion_of,
)
from influencekit.evaluation import detection


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=3, max_size=12))
def test_depth_is_counted_over_pairs_and_is_the_auc(pairs):
    z, planted = np.array([a for a, _ in pairs], float), np.array([b for _, b in pairs])
    if planted.all() or not planted.any():
        return
    used = np.arange(len(z))
    depth = depth_of(z, planted, used)
    slow = [np.mean([1.0 if o > m else 0.5 if o == m else 0.0 for o in z[~planted]]) for m in z[planted]]
    np.testing.assert_allclose(depth, slow)
    auc = detection(xr.DataArray(-z, dims="train"), planted).auc.item()
    assert 1 - depth.mean() == pytest.approx(auc)


def test_normal_scores_leave_out_what_no_step_holds():
    z = normal_scores(np.array([[5.0, 1.0, 3.0, 9.0]]), np.array([0, 1, 2]))[0]
    assert z[3] == 0 and z[1] > z[2] > z[0] and z[2] == pytest.approx(0)


@pytest.mark.parametrize("pi", [0.0, 0.03, 0.1, 0.3])
def test_the_fraction_of_wrong_labels_is_that_of_a_known_mixture(pi):
    """2,000 draws, and 500 trusted ones: the truth lies in the 95 % interval in nine of ten at least."""
    inside, estimates = 0, []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        wrong = generator.random(2000) < pi
        own = generator.normal(np.where(wrong, -1.5, 1.5), 1)
        trusted = generator.normal(1.5, 1, (4, 500))
        mixture = Mixture(own, trusted, -trusted, np.ones(500), np.ones(500))
        draws = fraction_wrong([mixture], 200, (seed,))
        low, high = np.quantile(draws[1:], [0.025, 0.975])
        inside += low <= wrong.mean() <= high or (pi == 0 and low <= 0.002)
        estimates.append(draws[0])
    assert inside >= 18 and np.mean(estimates) == pytest.approx(pi, abs=0.01)


def test_wrong_labels_of_one_class_alone_are_counted_where_the_classes_are_not_alike():
    """3 of 10 examples of class 0 are labelled 1, of which models are less sure: on the mean of 20, the sum
    of the two labels is right to .01; both taken together, as all were before, are off by .03 and more."""
    apart, together, wrong = [], [], 0.3 * 1000 / 2000
    for seed in range(20):
        generator = np.random.default_rng(seed)
        y = np.arange(2000) >= 1000  # the right class; what models hold of class 1 against 0:
        logit = generator.normal(np.where(y, 3.0, -0.7), 1)
        trusted_y = np.arange(500) >= 250
        trusted = generator.normal(np.where(trusted_y, 3.0, -0.7), 1, (4, 500))
        given = y | (np.arange(2000) < 300)
        mixtures = [
            Mixture(
                s * logit[given == k],
                s * trusted,
                s * trusted,
                1.0 * (trusted_y == k),
                1.0 * (trusted_y != k),
            )
            for k, s in ((False, -1), (True, 1))
        ]
        apart.append(fraction_wrong(mixtures, 50, (seed,))[0])
        sign = np.where(trusted_y, 1, -1)
        every = Mixture(np.where(given, 1, -1) * logit, sign * trusted, -sign * trusted, *np.ones((2, 500)))
        together.append(fraction_wrong([every], 50, (seed,))[0])
    assert np.mean(apart) == pytest.approx(wrong, abs=0.01)
    assert abs(np.mean(together) - wrong) > 0.03


@pytest.mark.parametrize("undone", [0.0, 1.0])
def test_expected_precision_is_that_of_labels_known_to_be_wrong(undone):
    """1,000 examples of which 100 are wrong, and plantings in the same; to .06 on the mean of ten."""
    off = []
    for seed in range(10):
        generator, n = np.random.default_rng(seed), 1000
        wrong = np.arange(n) < 100
        depth = []
        for _ in range(4):
            planted = np.isin(np.arange(n), generator.choice(n, 50, replace=False))
            bad = np.where(planted & wrong, undone == 0, planted | wrong)
            depth.append(depth_of(generator.normal(2.0 * bad, 1), planted, np.arange(n)))
        order = np.argsort(-generator.normal(2.0 * wrong, 1))
        hopes = expected(depth, n, np.full(50, 0.1), undone, 0.9, (seed,), bound=False)
        off.append([hopes.precision[k - 1] - wrong[order[:k]].mean() for k in (50, 100, 200)])
    np.testing.assert_allclose(np.mean(off, 0), 0, atol=0.06)


def test_the_bound_is_above_the_fraction_and_near_it_where_the_first_are_wrong():
    """Nine of ten times at least: it is made of the lower end of a 95 % interval."""
    bounds = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        wrong, planted = np.arange(2000) < 200, np.arange(2000) >= 1900
        z = generator.normal(3.0 * (wrong | planted), 1)
        bounds.append(most_wrong([depth_of(z, planted, np.arange(2000))], 1900))
    assert np.mean(np.array(bounds) >= 200 / 1900) >= 0.9 and np.mean(bounds) < 0.15


def test_suspicions_add_up_to_the_expected_number():
    precision = np.array([1.0, 0.9, 0.7, 0.55])
    np.testing.assert_allclose(np.cumsum(suspicion_of(precision)), precision * [1, 2, 3, 4])
