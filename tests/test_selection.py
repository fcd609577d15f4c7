"""Sums over chosen examples: by simulation without bias and with intervals that hold, and by hand on runs."""

import numpy as np
import pytest
import xarray as xr
from helpers_cli import TINY, fails, run
from helpers_evaluation import evaluated, tiny
from hypothesis import given
from hypothesis import strategies as st

import influencekit as ik
from influencekit import InputError
from influencekit._effects.selection import crossfitted, extremes, held_out, icc, reliability, shrunk
from influencekit._effects.sums import selected_verdict
from influencekit._trajectory.rerun import moved, rerun
from influencekit.cli.problems import WorkloadSource
from influencekit.evaluation import Brittleness, LeaveKOut

N, K, RUNS, TRIALS = 100, 10, 6, 2000


def drawn(noise, seed, runs=RUNS, trials=TRIALS):
    """Effects [trial, train] and scores [run, trial, train] of them with noise of this deviation."""
    generator = np.random.default_rng(seed)
    effects = generator.normal(0.3, 1, size=(trials, N))
    return effects, effects + noise * generator.normal(size=(runs, trials, N))


def pairs_of(scores, side=-1, k=K):
    return np.einsum("a...t,b...t->ab...", extremes(scores, k, side).astype(float), scores)


# the three remedies, in a world whose truth is known ------------------------------------------------------


@pytest.mark.parametrize("side", [-1, 1])
def test_the_plain_sum_of_the_chosen_is_biased_and_the_three_remedies_are_not(side):
    """2000 trials: the mean of each remedy's error is within four standard errors of 0."""
    effects, scores = drawn(noise=1.0, seed=0)
    masks = extremes(scores, K, side).astype(float)
    truth = (effects * masks[0]).sum(-1)
    plain = (scores[0] * masks[0]).sum(-1) - truth
    assert plain.mean() * side > 5, "half of the variance is noise: the curse is large here"
    own = held_out((scores[1:] * masks[0]).sum(-1)).value - truth
    shrink = shrunk(scores, masks[0]) - truth
    rule = crossfitted(pairs_of(scores, side)).value - (effects * masks).sum(-1).mean(0)
    for error in (own, shrink, rule):
        assert abs(error.mean()) < 4 * error.std() / TRIALS**0.5
    assert rule.std() < own.std(), "the rule is averaged over all who choose"
    assert shrink.std() < own.std(), "shrinking uses the run that chose as well"


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_of_the_held_out_sum_holds_the_truth_as_often_as_it_says(level):
    effects, scores = drawn(noise=1.0, seed=1)
    mask = extremes(scores, K, -1)[0].astype(float)
    found = held_out((scores[1:] * mask).sum(-1), level)
    truth = (effects * mask).sum(-1)
    assert ((found.low <= truth) & (truth <= found.high)).mean() == pytest.approx(level, abs=0.03)
    another = truth + np.random.default_rng(5).normal(size=TRIALS) * K**0.5
    inside = (found.run_low <= another) & (another <= found.run_high)
    assert inside.mean() == pytest.approx(level, abs=0.03)


def test_the_jackknifes_interval_of_the_rule_is_about_right_and_not_too_narrow():
    """The truth is what very many runs choose, summed over their effects. 95 % hold in 90 to 99 %."""
    effects, scores = drawn(noise=1.0, seed=2, trials=400)
    more = effects + np.random.default_rng(3).normal(size=(100, 400, N))
    truth = (extremes(more, K, -1) * effects).sum(-1).mean(0)
    found = crossfitted(pairs_of(scores))
    assert 0.90 <= ((found.low <= truth) & (truth <= found.high)).mean() <= 0.99


@given(st.floats(0.1, 3), st.integers(2, 12))
def test_icc_is_the_fraction_of_variance_that_runs_share_and_spearman_brown_that_of_their_mean(noise, runs):
    effects, scores = drawn(noise, seed=4, runs=runs, trials=60)
    expected = 1 / (1 + noise**2)
    assert icc(scores).mean() == pytest.approx(expected, abs=0.05)
    with_truth = np.mean([np.corrcoef(a, b)[0, 1] ** 2 for a, b in zip(scores.mean(0), effects, strict=True)])
    assert reliability(np.array(expected), runs) == pytest.approx(with_truth, abs=0.05)


@given(st.integers(2, 5), st.integers(1, 20), st.integers(0, 99))
def test_runs_that_agree_leave_the_sum_as_it_is(runs, k, seed):
    scores = np.random.default_rng(seed).normal(size=N)
    same = np.broadcast_to(scores, (runs, N))
    total = np.sort(scores)[:k].sum()
    pairs, mask = pairs_of(same, k=k), extremes(scores, k, -1).astype(float)
    for value in (crossfitted(pairs).value, held_out(pairs[0]).value, shrunk(same, mask)):
        assert value == pytest.approx(total)
    assert icc(same) == pytest.approx(1)


@given(st.integers(3, 6), st.integers(1, 4), st.integers(0, 99))
def test_cross_fitting_is_the_plain_mean_over_pairs_of_runs(runs, k, seed):
    scores = np.random.default_rng(seed).normal(size=(runs, 9))
    by_hand = [scores[b][np.argsort(scores[a])[:k]].sum() for a in range(runs) for b in range(runs) if a != b]
    assert crossfitted(pairs_of(scores, k=k)).value == pytest.approx(np.mean(by_hand))


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=12), st.integers(0, 5), st.sampled_from([-1, 1]))
def test_extremes_are_the_k_that_sorting_gives(values, k, side):
    k = min(k, len(values))
    chosen = np.array(values)[extremes(np.array(values), k, side)]
    assert sorted(chosen) == sorted(sorted(values, reverse=side > 0)[:k])


def test_few_runs_give_a_sum_and_no_interval():
    scores = np.random.default_rng(0).normal(size=(2, N))
    for found in (held_out(scores[:1].sum(-1)), crossfitted(pairs_of(scores))):
        assert np.isfinite(found.value) and np.isnan(found.low) and np.isnan(found.run_high)
    assert np.isnan(icc(scores[:1]))


def test_the_verdict_names_what_the_sum_is_off_by():
    said = [
        selected_verdict(9, 8, -0.128, (-0.02, -0.06, 0.01), -0.02, 0.015, 0.019),
        selected_verdict(9, 8, -0.128, (-0.12, -0.13, -0.11), -0.12, 0.015, 0.019),
        selected_verdict(9, 8, -0.128, (-0.12, -0.13, -0.11), -0.12, -0.11, -0.03),
        selected_verdict(9, 8, -0.128, (-0.12, -0.13, -0.11), -0.12, -0.11, -0.12),
    ]
    assert said[0].startswith(
        "the sum over the 9 chosen is -0.13; on 8 runs that did not choose them it is -0.02 [-0.06, +0.01]"
    )
    assert said[0].endswith("mostly the choice (-0.11)")
    assert "mostly that single scores do not add up" in said[1]
    assert "mostly that one run differs from the next" in said[2]
    assert "mostly" not in said[3], "the sum is right to within a quarter"


def test_the_verdict_on_scores_that_are_off_by_themselves_does_not_blame_the_adding_up():
    inside = (-0.12, -0.13, -0.11)
    one = selected_verdict(1, 8, -0.128, inside, -0.12, 0.015, 0.019)
    assert one.startswith(
        "the score of the one chosen is -0.13; on 8 runs that did not choose it, it is -0.12"
    )
    assert "mostly that a score is a derivative and not the removal (-0.14)" in one and "add up" not in one
    off = selected_verdict(9, 8, -0.128, inside, -0.12, 0.015, 0.019, alone=(-0.02, 0.01))
    assert "mostly that scores are derivatives: that of the strongest example is off by itself" in off
    right = selected_verdict(9, 8, -0.128, inside, -0.12, 0.015, 0.019, alone=(-0.02, -0.021))
    assert "mostly that single scores do not add up" in right


def test_the_verdict_calls_nobody_chosen_who_was_given():
    said = selected_verdict(9, 8, -0.128, (-0.02, -0.06, 0.01), -0.02, 0.015, 0.019, chosen=False)
    assert said.startswith(
        "the sum over the 9 given is -0.13; on 8 runs from moved starts the same sum is -0.02 [-0.06, +0.01]"
    )
    assert said.endswith("mostly that this run's scores are not those of other runs (-0.11)")
    assert "cho" not in said


# remove ---------------------------------------------------------------------------------------------------

RUN, QUERY = tiny(), ik.make("query", "test-losses")


def others(runs, fraction=0.01):
    return [rerun(RUN, start=moved(RUN, fraction, number)) for number in range(1, runs)]


@pytest.mark.parametrize("estimator", ["dit", "loo"])
def test_other_runs_sum_over_ids_of_ones_own_and_are_retrained_without_them(estimator):
    scores = ik.estimate(RUN, QUERY, estimator)
    by = scores.influence.mean(("query", "window"))
    ids = by.sortby(by).train.values[[0, 3]].tolist()  # neither the two lowest nor the two highest
    found = ik.remove(RUN, QUERY, ids, scores, runs=4, moved=0.01)
    sums = [ik.estimate(one, QUERY, estimator).influence.sel(train=ids).sum("train") for one in others(4)]
    truth = [ik.remove(one, QUERY, ids).retrained for one in others(4)]
    np.testing.assert_allclose(found.estimate_runs, sums, rtol=1e-9)
    np.testing.assert_allclose(found.retrained_runs, truth, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(found.estimate_crossfit, np.mean(sums, 0), rtol=1e-9)
    assert (found.low < found.estimate_crossfit).all() and (found.run_high > found.high).all()
    assert found.attrs["runs"] == 4 and found.attrs["chosen"] == "by their ids"
    assert "the sum over the 2 given" in found.verdict and "on 3 runs from moved starts" in found.verdict
    one = ik.remove(RUN, QUERY, ids[:1], scores, runs=3, moved=0.01).verdict
    assert "the score of the one" in one and "sum" not in one and "add up" not in one
    plain = ik.remove(RUN, QUERY, ids, scores)
    for name in plain.data_vars:
        np.testing.assert_array_equal(found[name], plain[name])


@pytest.mark.parametrize("end", ["lowest", "highest"])
def test_of_the_k_lowest_or_highest_every_run_chooses_its_own(end):
    each = [RUN, *others(4)]
    scores = [ik.estimate(one, QUERY).influence.values[:, 0] for one in each]
    orders = [one.mean(0).argsort()[:: -1 if end == "highest" else 1][:3] for one in scores]
    ids = np.array(RUN.workload.train_ids)[orders[0]].tolist()
    found = ik.remove(RUN, QUERY, ids, runs=4, moved=0.01)
    by_hand = [scores[b][:, orders[a]].sum(-1) for a in range(4) for b in range(4) if a != b]  # [pair, query]
    np.testing.assert_allclose(found.estimate_crossfit[:, 0], np.mean(by_hand, 0), rtol=1e-9)
    assert found.attrs["chosen"] == f"the 3 {end} by the mean score"


def test_scores_for_sets_bring_the_intercept_of_their_own_run():
    scores = [ik.estimate(one, QUERY, "dit:centre=0.5") for one in (RUN, *others(3))]
    ids = np.array(RUN.workload.train_ids)[[0, 2, 3, 5]].tolist()
    found = ik.remove(RUN, QUERY, ids, scores[0], runs=3, moved=0.01)
    sums = [(one.influence.sel(train=ids).sum("train") + one.intercept).values for one in scores]
    assert abs(scores[0].intercept).max() > 0
    np.testing.assert_allclose(found.estimate, sums[0], rtol=1e-9)
    np.testing.assert_allclose(found.estimate_runs, sums[1:], rtol=1e-9)
    assert found.attrs["chosen"] == "by their ids"
    np.testing.assert_allclose(found.estimate_crossfit, np.mean(sums[1:], 0), rtol=1e-9)
    groups = evaluated(RUN, LeaveKOut(k=(4,), groups=5, runs=3, moved=0.01), QUERY, ["dit:centre=0.5"])
    assert float(abs(groups.shrunk - groups.predicted).max()) < float(abs(groups.predicted).max())
    curves = evaluated(RUN, Brittleness(k=(4,), runs=3, moved=0.01), QUERY, ["dit:centre=0.5"])
    assert float(abs(curves.predicted_shrunk - curves.predicted).max()) < float(abs(curves.predicted).max())


def test_examples_that_were_not_scored_do_not_count():
    scores = ik.estimate(RUN, "test-loss", "loo:examples=5")
    ids = scores.train.values[np.isfinite(scores.influence.values[0, 0])][:2].tolist()
    found = ik.remove(RUN, "test-loss", ids, "loo:examples=5", runs=3)
    assert np.isfinite([found[name].item() for name in ("estimate_crossfit", "estimate_shrunk", "icc")]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runs": 2}, "runs must be at least 3, got 2"),
        ({"runs": 4, "moved": 0.0}, "moved must be above 0"),
        ({"runs": 3, "estimator": "own"}, "cannot be made from its name; pass the estimator itself"),
    ],
)
def test_what_no_other_run_can_say_is_refused(options, words):
    if options.get("estimator") == "own":
        options = options | {"estimator": ik.estimate(RUN).assign_attrs(estimator="own")}
    with pytest.raises(InputError, match=words) as caught:
        ik.remove(RUN, ids=RUN.workload.train_ids[:2], **options)
    assert "\n" not in str(caught.value)


# evaluations ----------------------------------------------------------------------------------------------


def test_brittleness_has_the_sums_of_runs_that_did_not_choose():
    found = evaluated(RUN, Brittleness(k=(2, 3), runs=3, moved=0.01), QUERY, ["dit", "if"])
    each = [RUN, *others(3)]
    for name in ("dit", "if"):
        scores = np.stack([ik.estimate(one, QUERY, name).influence.values[:, 0] for one in each])
        for removed, side in (("helpful", 1), ("harmful", -1)):
            for k in (2, 3):
                here = found.sel(estimator=name, removed=removed, k=k).isel(window=0)
                expected = crossfitted(pairs_of(scores, side, k))
                np.testing.assert_allclose(here.predicted_crossfit, expected.value, rtol=1e-9)
                np.testing.assert_allclose(here.predicted_low, expected.low, rtol=1e-9)
                mask = extremes(scores[0], k, side).astype(float)
                np.testing.assert_allclose(here.predicted_shrunk, shrunk(scores, mask), rtol=1e-9)
    rows = Brittleness().table(found).rows
    assert ("sum on other runs, most harmful", "dit") in rows.index
    plain = evaluated(RUN, Brittleness(k=(2, 3)), QUERY, ["dit", "if"])
    np.testing.assert_array_equal(plain.effect, found.effect)
    assert "predicted_shrunk" not in plain and len(Brittleness().table(plain).rows) < len(rows)


def test_groups_that_nobody_chose_are_shrunk_and_covered_and_not_cross_fitted():
    found = evaluated(RUN, LeaveKOut(k=(1, 3), groups=12, runs=3, moved=0.01), QUERY, ["dit", "loo"])
    assert ((found.low <= found.shrunk) & (found.shrunk <= found.high)).mean() > 0.9
    inside = ((found.low <= found.retrained) & (found.retrained <= found.high)).mean("group")
    np.testing.assert_allclose(found.covered, inside)
    assert float(found.covered.sel(estimator="loo", k=1).mean()) > 0.9, "loo is the truth of one example"
    assert float(found.size_shrunk.sel(estimator="loo", k=1).mean()) == pytest.approx(1, abs=0.05)
    rows = LeaveKOut().table(found).rows
    assert ("dit", "in the interval of runs") in rows.index
    plain = evaluated(RUN, LeaveKOut(k=(1, 3), groups=12), QUERY, ["dit", "loo"])
    np.testing.assert_array_equal(plain.predicted, found.predicted)
    assert "shrunk" not in plain


@pytest.mark.parametrize("evaluation", [Brittleness(k=(2,), runs=3), LeaveKOut(k=(2,), groups=3, runs=3)])
def test_ready_scores_alone_cannot_be_compared_with_other_runs(evaluation):
    with pytest.raises(InputError, match="give the estimators, not scores"):
        evaluated(RUN, evaluation, estimators=ik.estimate(RUN))


def test_the_command_line_prints_and_saves_what_other_runs_say(recorded, tmp_path):
    trajectory = ik.open(recorded, WorkloadSource(TINY)(0))
    ids, path = [str(i) for i in trajectory.workload.train_ids[:3]], tmp_path / "ids.txt"
    path.write_text("\n".join(ids), encoding="utf-8")
    out = tmp_path / "scores.zarr"
    shown = run("estimate", recorded, "--trust", "none", "--remove", path, "--runs", "3", "--out", out).stdout
    found = ik.remove(trajectory, ids=ids, runs=3)
    assert found.verdict in " ".join(shown.split()) and "mean of 2 moved runs" in shown
    saved = xr.open_zarr(out, consolidated=False)
    np.testing.assert_allclose(saved.removed_estimate_crossfit, found.estimate_crossfit)
    assert saved.attrs["removed_runs"] == 3 and saved.attrs["removed_chosen"] == "by their ids"
    assert "name its file" in fails("estimate", recorded, "--runs", "3", code=2)
