"""The bootstrap interval of rank correlations covers what it says, and is scipy's where scipy's is right."""

import numpy as np
import pytest
import xarray as xr
from helpers_cli import TINY
from helpers_evaluation import evaluated, tiny
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap, rankdata, spearmanr

import influencekit as ik
from influencekit.cli.problems import WorkloadSource
from influencekit.evaluation import LDS
from influencekit.evaluation import bootstrap as boot


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=12), st.integers(0, 5)
)
def test_spearman_of_a_resample_is_scipys_of_the_pairs_written_out(pairs, seed):
    x, y = np.array(pairs, dtype=float).T
    counts = boot.drawn(len(x), 5, (seed,))
    assert (counts.sum(1) == len(x)).all()
    found = boot.spearman(x, y, counts)
    for value, count in zip(found, counts, strict=True):
        a, b = np.repeat(x, count), np.repeat(y, count)
        if len(set(a)) == 1 or len(set(b)) == 1:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(spearmanr(a, b)[0], abs=1e-12)


def found_for(x, y, resamples=400, seed=0):
    """(estimate, low, high) of the mean over queries; x, y [query, pair]."""
    n = x.shape[-1]
    counts = np.concatenate([boot.drawn(n, resamples, (seed,)), boot.without_each(n)])
    found = np.mean([boot.spearman(a, b, counts) for a, b in zip(x, y, strict=True)], 0)
    estimate = np.mean([spearmanr(a, b)[0] for a, b in zip(x, y, strict=True)])
    low, high = boot.interval(np.array(estimate), found[:resamples], found[resamples:], 0.95, n)
    return estimate, float(low), float(high)


def normal(rho, queries, n, rng):
    x, noise = rng.normal(size=(2, queries, n))
    return x, rho * x + np.sqrt(1 - rho**2) * noise


@pytest.mark.parametrize(("rho", "queries", "n"), [(0.8, 1, 50), (0.95, 1, 20), (0.85, 5, 20), (0.9, 9, 30)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says_and_always_holds_the_estimate(
    rho, queries, n
):
    """Pairs of normal numbers of correlation rho, whose rank correlation is 6/pi asin(rho / 2)."""
    truth, rng, covered = 6 / np.pi * np.arcsin(rho / 2), np.random.default_rng(0), 0
    for trial in range(100):
        estimate, low, high = found_for(*normal(rho, queries, n, rng), resamples=200, seed=trial)
        assert low <= estimate <= high
        covered += low <= truth <= high
    assert 86 <= covered <= 100  # 95 expected, deviation 2; bootstrap intervals are a little short


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, 0.95])
def test_with_more_pairs_the_interval_shrinks_and_at_twenty_it_says_something(rho):
    rng, widths = np.random.default_rng(1), []
    for n in (20, 80, 320):
        ends = [found_for(*normal(rho, 1, n, rng), seed=trial) for trial in range(20)]
        widths.append(np.median([high - low for _, low, high in ends]))
    assert widths[0] > 1.5 * widths[1] > 2.25 * widths[2]  # as 1 / sqrt(n): by 2 and 4
    assert widths[0] < (1.1 if rho < 0.8 else 0.6)


def test_one_outlier_in_a_perfect_ranking_of_twenty_does_not_make_the_interval_absurd():
    """Without that pair, as in a third of the resamples, all is 1: beyond every bound on Fisher's scale."""
    x = np.arange(20.0)
    y = np.where(x == 2, 20, x)
    estimate, low, high = found_for(x[None], y[None])
    assert estimate == pytest.approx(0.77, abs=0.01) and low > 0 and high <= 1


@pytest.mark.parametrize("n", [20, 60])
def test_of_one_query_the_interval_is_scipys_bca(n):
    x, y = normal(0.7, 1, n, np.random.default_rng(n))
    _, low, high = found_for(x, y, resamples=20_000)

    def statistic(a, b, axis):
        ranks = [rankdata(v, axis=axis) for v in (a, b)]
        a, b = (v - v.mean(axis, keepdims=True) for v in ranks)
        return (a * b).sum(axis) / np.sqrt((a * a).sum(axis) * (b * b).sum(axis))

    expected = bootstrap(
        (x[0], y[0]), statistic, paired=True, vectorized=True, n_resamples=20_000, method="BCa",
        random_state=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert (low, high) == pytest.approx(expected, abs=0.015)  # what other resamples do to an end


def test_fewer_than_ten_pairs_have_no_interval():
    found = evaluated(tiny(), LDS(m=9), "test-losses", "dit")
    assert not np.isnan(found.lds).any() and np.isnan(found.lds_low).all() and np.isnan(found.mean_high).all()
    assert not np.isnan(evaluated(tiny(), LDS(m=10), "test-losses", "dit").lds_low).any()


@given(
    st.lists(st.integers(-3, 3), min_size=10, max_size=15).filter(lambda x: len(set(x)) > 1),
    st.sampled_from([1, -1]),
)
def test_of_a_perfect_ranking_there_is_no_doubt(x, sign):
    values = np.array(x, dtype=float)
    counts = np.concatenate([boot.drawn(len(x), 50, (0,)), boot.without_each(len(x))])
    again = boot.spearman(values, sign * values**3, counts)
    low, high = boot.interval(np.array(float(sign)), again[:50], again[50:], 0.95, len(x))
    assert (low, high) == pytest.approx((sign, sign)) or np.isnan(again[:50]).all()


def test_the_interval_is_one_of_its_seed():
    run = ik.record(WorkloadSource(TINY)(0))
    few, same = (evaluated(run, LDS(m=20, seed=1), "test-loss", ["if"]) for _ in range(2))
    xr.testing.assert_identical(few, same)
    assert few.lds_low.item() <= few.lds.item() <= few.lds_high.item()
    assert few.lds_low.item() == few.mean_low.item(), "one query is its own mean"
    assert not few.left_out.equals(evaluated(run, LDS(m=20, seed=2), "test-loss", ["if"]).left_out)


def test_scores_that_are_all_the_same_have_no_rank_correlation():
    run = tiny()
    flat = ik.estimate(run, "test-loss", "dit")
    found = evaluated(run, LDS(m=4, resamples=5), "test-loss", flat.assign(influence=flat.influence * 0))
    assert np.isnan(found.lds).all() and np.isnan(found.lds_low).all() and np.isnan(found["mean"]).all()
