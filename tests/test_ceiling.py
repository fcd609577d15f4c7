"""Leave-one-out repeated over runs: what each run is, how they agree, and what an estimate can then reach."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from helpers_ceiling import LINEAR, SPEC
from helpers_contents import examples as sample
from helpers_contents import taped
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils.data import TensorDataset

import influencekit as ik
from influencekit._repeatability import again as one_more
from influencekit._repeatability import attainable, consistent, interval, intraclass, of_mean, of_one
from influencekit._trajectory.rerun import moved, rerun
from influencekit.errors import InputError
from influencekit.metrics import METRICS, agreement


@pytest.fixture(scope="module")
def run():
    return ik.record(ik.make("workload", SPEC))


@pytest.fixture(scope="module")
def found(run):
    return ik.ceiling(run, "test-loss", 4, 0.05, windows="each-epoch")


# the runs ---------------------------------------------------------------------------------------------------


def test_each_run_is_leave_one_out_of_the_recorded_plan_from_a_start_moved_by_its_seed(run, found):
    for seed, name in enumerate(found.run.values):
        other = rerun(run, start=moved(run, 0.05, seed)) if seed else run
        truth = ik.estimate(other, "test-loss", "loo", "each-epoch").influence
        np.testing.assert_array_equal(found.effects.sel(run=name), truth)
        assert found.accuracy.sel(run=name) == other.attrs["accuracy"]
    assert found.run.values.tolist() == ["recorded", "moved 1", "moved 2", "moved 3"]


def test_other_seeds_change_the_start_and_the_order_and_keep_the_examples():
    found = ik.ceiling(LINEAR, seeds=[7], examples=6)
    own, other = (ik.make("workload", LINEAR, seed=seed) for seed in (0, 7))
    again = ik.record(replace(own, model=other.model, seed=other.seed))
    assert not torch.equal(again.state(0).theta, own.theta0)
    assert again.workload.train_ids == own.train_ids == found.train.values.tolist()
    truth = ik.estimate(again, "test-loss", "loo:examples=6").influence
    np.testing.assert_array_equal(found.effects.sel(run="seed 7"), truth)


def test_a_workload_a_spec_and_a_function_are_recorded_first():
    work = ik.make("workload", LINEAR)
    ways = [ik.record(work), work, LINEAR, lambda seed: ik.make("workload", LINEAR, seed=seed)]
    every = [ik.ceiling(way, runs=2, examples=4).effects for way in ways]
    for effects in every:
        xr.testing.assert_identical(effects, every[0])


def test_a_taped_run_starts_again_from_its_own_first_state(tmp_path):
    x, y = sample()
    run = taped(tmp_path / "run", TensorDataset(x, y)).trajectory(test=(x[:20], y[:20]))
    asked = {"moved": 0.01, "examples": 5, "windows": "step:1-2", "removal": "window"}
    found = ik.ceiling(run, runs=2, store=tmp_path / "kept", **asked)
    other = rerun(run, start=moved(run, 0.01, 1))
    truth = ik.estimate(other, "test-loss", "loo:examples=5", "step:1-2", "window").influence
    np.testing.assert_array_equal(found.effects[1], truth)
    assert found.ceiling.sel(target="loo", metric="pearson") > 0.99


def test_an_average_is_asked_of_every_run(run):
    found = ik.ceiling(run, runs=2, moved=0.05, average="after:epoch=2", examples=4)
    truth = ik.estimate(found_run(run), "test-loss", "loo:examples=4", average="after:epoch=2").influence
    np.testing.assert_allclose(found.effects[1], truth, rtol=1e-5, atol=1e-8)


def found_run(run):
    return rerun(run, start=moved(run, 0.05, 1))


def test_runs_of_a_convex_problem_agree():
    found = ik.ceiling(LINEAR, runs=3, moved=0.01)
    assert (found.ceiling > 0.99).all() and (found.agreement > 0.98).all() and found.icc.item() > 0.99


# what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"runs": 1}, "runs must be at least 2"),
        ({"moved": 0.0}, "moved must be above 0"),
        ({"moved": float("nan")}, "moved must be"),
        ({"level": 1.0}, "level must be"),
        ({"seeds": [1]}, "a recorded run has no other start"),
        ({"recorder": "full"}, "recorder= is for workloads"),
        ({"examples": 1}, "at least 2"),
        ({"windows": "step:0-99"}, "outside"),
    ],
)
def test_what_cannot_be_repeated_is_refused_in_one_line(run, asked, said):
    with pytest.raises(InputError, match=said) as caught:
        ik.ceiling(run, **asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seeds", [[], [1, 1], "12", [1.5], 3])
def test_seeds_are_different_whole_numbers(seeds):
    with pytest.raises(InputError, match="seeds"):
        ik.ceiling(SPEC, seeds=seeds)


def test_seeds_that_make_another_problem_are_refused(run):
    with pytest.raises(InputError, match="starts as the recorded run does"):
        ik.ceiling(LINEAR, seeds=[0])
    with pytest.raises(InputError, match="a Workload has no other start"):
        ik.ceiling(run.workload, seeds=[1])
    with pytest.raises(InputError, match="makes another model"):
        ik.ceiling(lambda seed: ik.make("workload", SPEC if seed else LINEAR, seed=seed), seeds=[1])


# agreement --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seeds": [1], "runs": 8}, "ceiling: runs= is for moved starts, and seeds= says itself"),
        ({"seeds": [1], "moved": 0.5}, "ceiling: moved= is for moved starts"),
        ({"moved": 1e30}, "ceiling: moved must be above 0.0 and at most 1.0"),
        ({"moved": 0}, "ceiling: moved must be above 0"),
    ],
)
def test_what_would_be_ignored_or_would_leave_nothing_of_the_start_is_refused(options, words):
    with pytest.raises(InputError, match=words) as refused:
        ik.ceiling(LINEAR, **options)
    assert "\n" not in str(refused.value)


def test_agreement_is_that_of_pairs_of_runs(found):
    effects = torch.from_numpy(found.effects.values).double()
    for r in range(4):
        for other in range(4):
            expected = agreement(effects[r], effects[other]).movedim(-1, 0)
            np.testing.assert_allclose(found.between[..., r, other], expected)
    pairs = found.between.values[..., *np.triu_indices(4, 1)]
    np.testing.assert_allclose(found.agreement, pairs.mean(-1))
    np.testing.assert_allclose(found.agreement_std, pairs.std(-1))
    np.testing.assert_allclose(found.loo_again, found.between[..., 0, 1:].mean("other"))
    rest = [agreement(effects[r], effects[[k for k in range(4) if k != r]].mean(0)) for r in range(4)]
    np.testing.assert_allclose(found.rest, torch.stack(rest).mean(0).movedim(-1, 0))


@given(
    st.integers(2, 6), st.integers(3, 12), st.floats(0, 5), st.floats(0, 5), st.integers(0, 2**31),
    st.floats(-100, 100),
)  # fmt: skip
def test_icc_is_what_an_analysis_of_variance_gives(runs, n, signal, noise, seed, shift):
    rng = np.random.default_rng(seed)
    d = shift + signal * rng.normal(size=n) + noise * rng.normal(size=(runs, n))
    between = runs * sum((d[:, j].mean() - d.mean()) ** 2 for j in range(n)) / (n - 1)
    within = sum((d[r, j] - d[:, j].mean()) ** 2 for r in range(runs) for j in range(n)) / (n * (runs - 1))
    found = intraclass(torch.from_numpy(d)).item()
    if between + (runs - 1) * within > 1e-9:
        assert found == pytest.approx((between - within) / (between + (runs - 1) * within), abs=1e-6)
        if between + within < 1e-3:
            return
        added = torch.from_numpy(d + rng.normal(size=(runs, 1)))  # of each run to all examples alike
        assert consistent(added).item() == pytest.approx(consistent(torch.from_numpy(d)).item(), abs=1e-6)


@settings(max_examples=6)
@given(st.floats(0.3, 0.95), st.integers(2, 12), st.integers(0, 2**31))
def test_ceilings_are_what_the_expected_effect_reaches_in_a_simulation(icc, runs, seed):
    # errors of about 1 / sqrt(8000) = .011 in each correlation
    rng = np.random.default_rng(seed)
    m = torch.from_numpy(rng.normal(size=8_000))
    d = icc**0.5 * m + (1 - icc) ** 0.5 * torch.from_numpy(rng.normal(size=(runs, len(m))))
    estimate = intraclass(d)
    assert estimate.item() == pytest.approx(icc, abs=0.03)
    again, one, mean = agreement(d[0], d[1]), agreement(m, d[0]), agreement(m, d.mean(0))
    rest = agreement(d[0], d[1:].mean(0))
    assert of_one(estimate).item() == pytest.approx(one[0].item(), abs=0.04)
    assert of_mean(estimate, runs).item() == pytest.approx(mean[0].item(), abs=0.04)
    for k, metric in enumerate(METRICS):
        assert attainable(metric, again[k]).item() == pytest.approx(one[k].item(), abs=0.04)
        assert attainable(metric, again[k], runs).item() == pytest.approx(mean[k].item(), abs=0.04)
        assert one_more(metric, again[k], runs - 1).item() == pytest.approx(rest[k].item(), abs=0.04)


@pytest.mark.parametrize("metric", METRICS)
def test_more_runs_have_a_higher_ceiling_and_chance_is_its_floor(metric):
    a = torch.linspace(-1 if metric != "jaccard" else 0, 1, 41, dtype=torch.float64)
    one, four = attainable(metric, a), attainable(metric, a, 4)
    assert (one >= a - 1e-4).all() and (four >= one - 1e-12).all()
    assert one[-1].item() == pytest.approx(1, abs=1e-3)
    chance = 0.3**2 / (0.6 - 0.3**2) if metric == "jaccard" else 0.0
    assert one[0].item() == pytest.approx(chance, abs=1e-6)
    assert attainable(metric, torch.tensor(torch.nan)).isnan()


def test_runs_that_disagree_have_a_ceiling_of_zero():
    apart = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]).double()
    assert intraclass(apart) < 0 and of_one(intraclass(apart)) == 0 == of_mean(intraclass(apart), 2)


def test_effects_that_are_all_one_number_have_no_agreement(run):
    nothing = ik.make("query", "vector", vector=torch.zeros(1, run.workload.n_params))
    found = ik.ceiling(run, nothing, runs=2, examples=4)
    assert np.isnan([found.icc, found.icc_consistency, found.ceiling_one, found.ceiling_mean]).all()
    assert found.ceiling.sel(metric=["pearson", "spearman", "kendall"]).isnull().all()
    assert (found["mean"].dropna("train") == 0).all() and found.sign_certainty.isnull().all()


# examples ---------------------------------------------------------------------------------------------------


def test_each_example_has_the_t_interval_of_its_effects(found):
    effects = found.effects.values.astype(float)
    mean, error = effects.mean(0), stats.sem(effects)
    low, high = stats.t.interval(0.95, 3, mean, error)
    np.testing.assert_allclose(found["mean"], mean)
    np.testing.assert_allclose(found.standard_error, error)
    np.testing.assert_allclose(found.low, low, atol=1e-12)
    np.testing.assert_allclose(found.high, high, atol=1e-12)
    np.testing.assert_allclose(found.sign_certainty, 1 - stats.ttest_1samp(effects, 0).pvalue / 2)
    np.testing.assert_allclose(found.effect_size, mean / effects.std(0, ddof=1))


def test_an_example_without_deviation_is_certain_and_without_effect_is_nothing():
    found = interval(torch.tensor([[0.0, 2.0, -2.0], [0.0, 2.0, -2.0]]).double(), 0.95)
    assert found.certainty.isnan().tolist() == [True, False, False] and found.certainty[1:].tolist() == [1, 1]
    assert found.size.isnan()[0] and found.size[1:].tolist() == [np.inf, -np.inf]
    assert torch.equal(found.low, found.mean) and torch.equal(found.high, found.mean)


def test_examples_that_nobody_left_out_are_nan_and_count_in_nothing(run):
    some = ik.ceiling(run, runs=2, moved=0.05, examples=7, seed=3)
    known = some["mean"].notnull().squeeze().values
    assert known.sum() == 7 == some.attrs["examples"]
    for name in ("effects", "low", "high", "deviation", "standard_error", "sign_certainty", "effect_size"):
        assert (some[name].notnull().values == known).all()
    expected = agreement(*torch.from_numpy(some.effects.values[:, 0, 0, known])).numpy()
    np.testing.assert_allclose(some.agreement.squeeze(), expected)
    np.testing.assert_allclose(some.rest, some.agreement)  # of two runs the rest is the other


def test_a_start_that_does_not_move_is_refused():
    """Runs that are the recorded one bit for bit would agree in everything."""
    with pytest.raises(InputError, match="1e-12 of the initial parameters' size is lost in rounding"):
        ik.ceiling(LINEAR, runs=2, moved=1e-12)
    workload = ik.make("workload", LINEAR)
    for parameter in workload.model.parameters():
        torch.nn.init.zeros_(parameter)
    run = ik.record(replace(workload, model=workload.model))
    for ask in (lambda: ik.ceiling(run, runs=2), lambda: ik.remove(run, ids=["54979", "34889"], runs=3)):
        with pytest.raises(InputError, match="initial parameters are all 0"):
            ask()
