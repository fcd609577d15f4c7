"""Evaluations equal slow retraining loops; on an additive problem, where first order is exact, all is 1."""

import numpy as np
import pytest
import torch
import xarray as xr
from helpers_cli import TINY
from helpers_evaluation import WINDOWS, additive, evaluated, set_effect, tiny
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

import influencekit as ik
from influencekit import InputError, evaluate
from influencekit.cli.problems import WorkloadSource
from influencekit.evaluation import (
    LDS,
    Brittleness,
    LeaveKOut,
    MislabelAUC,
    TaylorSlope,
    detection,
    flipped,
    over_seeds,
)
from influencekit.evaluation.retraining import random_sets
from influencekit.testing import retrained as plainly_retrained

# linear datamodeling score ------------------------------------------------------------------------------


@pytest.mark.parametrize("windows", WINDOWS)
def test_lds_is_spearman_of_sums_with_a_plain_retraining_loop(windows):
    run, query = tiny(), ik.make("query", "test-losses")
    chosen = WINDOWS[windows]
    found = evaluated(run, LDS(m=9), query, ["dit", "loo"], chosen)
    assert found.lds.dims == ("estimator", "query", "window") and found.sizes["subset"] == 9
    for w, window in enumerate(chosen):
        truth = np.stack([set_effect(run.workload, query, window, mask) for mask in found.left_out.values], 1)
        np.testing.assert_allclose(found.retrained[:, w], truth, atol=1e-12)
        for e, name in enumerate(("dit", "loo")):
            scores = ik.estimate(run, query, name, [window]).influence.values[:, 0]
            sums = scores @ found.left_out.values.T.astype(float)
            np.testing.assert_allclose(found.predicted[e, :, w], sums, atol=1e-12)
            rho = [spearmanr(a, b)[0] for a, b in zip(sums, truth, strict=True)]
            np.testing.assert_allclose(found.lds[e, :, w], rho)
            assert float(found["mean"][e, w]) == pytest.approx(np.mean(rho))


def test_where_effects_add_up_and_first_order_is_exact_every_figure_is_one():
    run, query = additive()
    found = evaluated(run, LDS(m=20), query, ["dit", "loo"])
    np.testing.assert_allclose(found.lds, 1)
    np.testing.assert_allclose(found.predicted, found.retrained.expand_dims(estimator=2), atol=1e-12)
    assert float(found.lds_low.min()) == float(found.mean_low.min()) == pytest.approx(1)
    groups = evaluated(run, LeaveKOut(k=(2, 9), groups=8), query, ["dit"])
    for figure in (groups.pearson, groups.spearman, groups["size"]):
        np.testing.assert_allclose(figure, 1)
    curves = evaluated(run, Brittleness(k=(3, 8)), query, ["dit"])
    np.testing.assert_allclose(curves.effect, curves.predicted, atol=1e-12)


def test_leave_k_out_is_the_same_by_size_with_its_correlations():
    run, query = tiny(), ik.make("query", "test-losses")
    found = evaluated(run, LeaveKOut(k=(1, 3), groups=6), query, ["dit", "if"])
    scores = np.stack([ik.estimate(run, query, n).influence.values[:, 0] for n in ("dit", "if")])
    masks = random_sets(8, [1, 3] * 6, (0, run.workload.seed))
    truth = np.stack([set_effect(run.workload, query, ik.Window(0, 6), mask) for mask in masks], 1)
    for j, k in enumerate((1, 3)):
        assert (masks[j::2].sum(1) == k).all()
        np.testing.assert_allclose(found.retrained[:, 0, j], truth[:, j::2], atol=1e-12)
        for e in range(2):
            for q in range(5):
                x, y = scores[e, q] @ masks[j::2].T.astype(float), truth[q, j::2]
                here = {"estimator": e, "query": q, "window": 0, "k": j}
                assert float(found.pearson[here]) == pytest.approx(pearsonr(x, y)[0])
                assert float(found.spearman[here]) == pytest.approx(spearmanr(x, y)[0])
                assert float(found["size"][here]) == pytest.approx(x @ y / (x @ x))


def test_one_after_the_other_and_batched_retraining_are_the_same():
    run = tiny()
    loop, batch = (evaluated(run, LDS(m=7, strategy=how), "test-losses", "dit") for how in ("loop", "batch"))
    np.testing.assert_allclose(loop.retrained, batch.retrained, atol=1e-13)


@given(st.integers(4, 40), st.integers(1, 30), st.integers(0, 9))
def test_random_sets_have_their_size_and_the_first_do_not_depend_on_how_many_there_are(n, size, seed):
    size = min(size, n - 1)
    many = random_sets(n, [size] * 7, (seed, 1))
    assert (many.sum(1) == size).all()
    assert (random_sets(n, [size] * 3, (seed, 1)) == many[:3]).all()
    assert n < 20 or (random_sets(n, [10] * 7, (seed, 2)) != random_sets(n, [10] * 7, (seed, 1))).any()


def test_every_seed_of_a_workload_has_subsets_of_its_own():
    masks = [
        evaluated(ik.record(WorkloadSource(TINY)(s)), LDS(m=4), "test-loss", "dit").left_out.values
        for s in (0, 1)
    ]
    assert (masks[0] != masks[1]).any()


# brittleness --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["test-losses", "alignment"])
def test_brittleness_of_one_example_is_the_slow_oracles_leave_one_out(asked):
    run, query = tiny(), ik.make("query", asked)
    for window in (
        ik.Window(0, 6),
        ik.Window(2, 5),
        ik.Window(2, 5, "window"),
        ik.Window(3, 4, "occurrence"),
    ):
        found = evaluated(run, Brittleness(k=(1,), draws=3), query, ["dit", "loo"], [window])
        truth = plainly_retrained(run.workload, query, [window])[:, 0].numpy()
        for name in ("dit", "loo"):
            scores = ik.estimate(run, query, name, [window]).influence.values[:, 0]
            for removed, chosen in (("helpful", scores.argmax(1)), ("harmful", scores.argmin(1))):
                effect = found.effect.sel(estimator=name, removed=removed).values[:, 0, 0]
                np.testing.assert_allclose(effect, truth[range(len(truth)), chosen], atol=1e-12)
        for draw in found.control.values[:, :, 0, 0]:
            assert min(abs(draw - truth.T).max(1)) < 1e-12, "a random example is one of them"


def test_brittleness_of_k_is_retraining_without_the_k_extremes_of_each_query():
    run, query = tiny(), ik.make("query", "test-losses")
    found = evaluated(run, Brittleness(k=(2, 4), queries=3), query, ["if"])
    assert found.sizes["query"] == 3 and found.sizes["draw"] == 8
    scores = ik.estimate(run, query, "if").influence.sel(query=found["query"]).values[:, 0]
    places = [list(query.labels(run.workload)).index(label) for label in found["query"].values]
    for q, row in enumerate(scores):
        order = row.argsort()
        for j, k in enumerate((2, 4)):
            for r, chosen in enumerate((order[::-1][:k], order[:k])):
                mask = np.isin(np.arange(8), chosen)
                truth = set_effect(run.workload, query, ik.Window(0, 6), mask)[places[q]]
                assert float(found.effect[0, r, q, 0, j]) == pytest.approx(truth, abs=1e-12)
                assert float(found.predicted[0, r, q, 0, j]) == pytest.approx(row[chosen].sum())


def test_flips_are_the_test_examples_that_another_model_classifies_otherwise():
    run = ik.record(WorkloadSource(TINY)(0))
    workload, query = run.workload, ik.make("query", "test-losses")
    found = evaluated(run, Brittleness(k=(3, 8, 20), queries=256, draws=2), query, ["dit"])
    scores = ik.estimate(run, query, "dit").influence.values[:, 0]
    with torch.no_grad():
        before = workload.outputs(run.final.theta, workload.test) > 0
    for j, k in enumerate((3, 8, 20)):
        flips = 0
        for q, row in enumerate(scores[:15]):
            after = without(workload, row.argsort(kind="stable")[::-1][:k])
            flips += bool(after[q] != before[q])
        some = found_of_first(run, query, scores, 15, k)
        assert some == pytest.approx(flips / 15)
        assert 0 <= float(found.flips.sel(removed="helpful")[0, 0, j]) <= 1
    assert float(found.flips.sel(removed="helpful")[0, 0, 2]) > float(found.control_flips[0, 0])
    assert "flips" not in evaluated(run, Brittleness(k=(1,)), "test-loss", ["dit"])


def without(workload: ik.Workload, chosen: np.ndarray) -> torch.Tensor:
    """The classes of the test examples after training on batches from which these examples are missing."""
    from copy import deepcopy

    model = deepcopy(workload.model)
    for t in range(workload.plan.steps):
        rows = workload.plan.batch(t)
        left = torch.tensor([r for r in rows.tolist() if r not in set(chosen.tolist())], dtype=torch.int64)
        loss = workload.loss(model(workload.train[0][left]), workload.train[1][left]).sum() / len(rows)
        for p, g in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
            p.data -= workload.plan.lrs(t)[0] * g
    with torch.no_grad():
        return model(workload.test[0]) > 0


def found_of_first(run, query, scores, count, k) -> float:
    """The share of flips among the first test examples, each with a query of its own."""
    flips = [
        float(
            evaluated(
                run, Brittleness(k=(k,), draws=1), f"prediction:example={q}", _as_scores(run, q, scores[q])
            ).flips[0, 0, 0, 0]
        )
        for q in range(count)
    ]
    return float(np.mean(flips))


def _as_scores(run, q, row) -> xr.Dataset:
    """Scores of one test loss, offered as scores of the prediction of the same example."""
    like = ik.estimate(run, f"prediction:example={q}", "dit")
    return like.assign(influence=like.influence.copy(data=row[None, None]))


# mislabel AUC -------------------------------------------------------------------------------------------


def test_mislabel_auc_is_flipping_recording_scoring_and_detecting_by_hand():
    run = ik.record(WorkloadSource(TINY)(2))
    found = evaluated(run, MislabelAUC(fraction=0.2, seed=5), "test-loss", ["dit", "if"])
    problem, mask = flipped(run.workload, 0.2, 5 + run.workload.seed)
    again = ik.record(problem)
    assert mask.sum() == 4 and (found.flipped.values == mask).all()
    for name in ("dit", "if"):
        by_hand = detection(ik.estimate(again, "test-loss", name).influence, mask)
        xr.testing.assert_allclose(found.auc.sel(estimator=name, drop=True), by_hand.auc)
        xr.testing.assert_allclose(found.recall.sel(estimator=name, drop=True), by_hand.recall)
    losses = problem.losses(again.final.theta, problem.train).detach().numpy()
    pairs = np.sign(losses[mask][:, None] - losses[~mask][None])
    assert float(found.control_auc) == pytest.approx(((pairs + 1) / 2).mean())
    assert float(found.accuracy) == again.attrs["accuracy"]


# several of them ----------------------------------------------------------------------------------------


def test_evaluate_takes_what_compare_returns_and_gives_what_the_functions_give():
    seen = []
    result = ik.compare(WorkloadSource(TINY), ["dit"], seeds=[0, 1], each=lambda *both: seen.append(both))
    seed, run, scores = seen[1]
    assert seed == 1 and scores.influence.dims == ("estimator", "query", "window", "train")
    expected = evaluated(run, LDS(m=6), "test-loss", ["dit", "loo"])
    for ready in (scores, result.sel(seed=1)):
        xr.testing.assert_allclose(evaluated(run, LDS(m=6), "test-loss", ready).lds, expected.lds)
    both = evaluate(run, "lds:m=6,brittleness:k=2", estimators=["dit", "loo"], scores=scores)
    assert list(both) == ["lds:m=6", "brittleness:k=2"]
    xr.testing.assert_allclose(both["lds:m=6"].lds, expected.lds)
    joined = over_seeds([both, both], [1, 7])["lds:m=6"]
    xr.testing.assert_allclose(joined.lds.sel(seed=7, drop=True), expected.lds)
    with pytest.raises(InputError, match="of several seeds"):
        evaluated(run, LDS(), "test-loss", result)
    with pytest.raises(InputError, match="their seed differ"):
        evaluated(run, LDS(), "test-loss", scores.assign_attrs(seed=seen[0][1].workload.seed))
    with pytest.raises(InputError, match="their examples differ"):
        evaluated(run, LDS(), "test-loss", result.sel(seed=0))
    with pytest.raises(InputError, match="their query differ"):
        evaluated(run, LDS(), "alignment", scores)
    with pytest.raises(InputError, match="bring their own windows"):
        evaluated(run, LDS(), "test-loss", scores, "each-epoch")


def test_an_estimator_that_cannot_be_evaluated_is_left_out_and_says_why():
    run = ik.record(WorkloadSource(TINY)(0))
    found = evaluate(run, "lds:m=4,taylor,mislabel-auc:fraction=0.2", estimators=["dit", "loo:examples=5"])
    assert all(one.estimator.values.tolist() == ["dit"] for one in found.values())
    assert "loo:examples=5 scored 5 of 24 examples only" in found["lds:m=4"].attrs["left_out"]
    assert "does not claim first order" in found["taylor"].attrs["left_out"]
    with pytest.raises(InputError, match="lds: loo:examples=5 scored 5 of 24 examples only; nothing is left"):
        evaluate(run, "lds", estimators=["loo:examples=5"])
    with pytest.raises(InputError, match="taylor: none of if, loo claims first order"):
        evaluate(run, "taylor", estimators=["if", "loo"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: evaluated(run, LDS(m=2)), "m must be at least 3"),
        (lambda run: evaluated(run, LDS(fraction=0.99)), "some of 8 examples in a subset and some out of it"),
        (lambda run: evaluated(run, LDS(fraction=1.5)), "got 1.5"),
        (lambda run: evaluated(run, LDS(level=1.0)), "level must be between 0 and 1"),
        (lambda run: evaluated(run, LeaveKOut(k=(8,))), "k must be different whole numbers from 1 to 7"),
        (lambda run: evaluated(run, Brittleness(k=())), "got none"),
        (lambda run: evaluated(run, Brittleness(draws=0)), "draws must be at least 1"),
        (lambda run: evaluated(run, TaylorSlope(smallest=1.0)), "smallest < largest"),
        (lambda run: evaluated(run, LDS(), estimators=[]), "estimators: expected at least one"),
        (
            lambda run: evaluated(run, MislabelAUC(), estimators=ik.estimate(run)),
            "give the estimators, not scores",
        ),
        (lambda run: evaluate(run, evaluations="lsd"), "no evaluation named 'lsd'; did you mean 'lds'"),
        (lambda run: evaluate(run, evaluations="lds:n=3"), "no option of evaluation 'lds' named 'n'"),
        (lambda run: evaluate(run, evaluations="lds,lds"), "'lds' is asked for twice"),
        (lambda run: evaluate(run, "mislabel-auc:share=0.1"), "option 'share' .* is called 'fraction' now"),
    ],
)
def test_bad_input_is_said_in_one_line(call, words):
    with pytest.raises(InputError, match=words) as caught:
        call(tiny())
    assert "\n" not in str(caught.value)
