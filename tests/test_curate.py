"""Curation against a plain loop that trains without each set: who chooses, who judges, what is said."""

from itertools import product

import numpy as np
import pytest
import torch
from helpers_curate import (
    FLIPPED,
    KS,
    TRUSTED,
    Chance,
    N,
    losses_without,
    sample,
    taped,
    workload,
)

import influencekit as ik
from influencekit._effects.repeated import Moved

CHOOSERS = ["dit", "if"]


@pytest.fixture(scope="module")
def run():
    return ik.record(workload())


@pytest.fixture(scope="module")
def found(run):
    return ik.curate(run, choosers=CHOOSERS, k=KS, draws=3, folds=3)


def order_by(part, without, name):
    """The examples, lowest score first, of a run whose test set are those outside of the folds `without`."""
    x, y = sample(TRUSTED, 1)
    rest = torch.from_numpy(~np.isin(part, without))
    alone = ik.record(workload(test=(x[rest], y[rest])))
    return np.argsort(ik.estimate(alone, "test-loss", name).influence.values.ravel()).tolist()


@pytest.fixture(scope="module")
def slow(found):
    """{(folds that do not choose, chooser, k): (the set, its change of the losses)}, by plain loops."""
    full, part = losses_without([]), found.fold.values
    groups = [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    orders = {key: order_by(part, *key) for key in product(groups, CHOOSERS)}
    sets = {(*key, k): frozenset(order[:k]) for key, order in orders.items() for k in KS}
    changes = {one: losses_without(one) - full for one in set(sets.values())}
    return {key: (one, changes[one]) for key, one in sets.items()}


def test_effects_are_those_of_a_plain_loop_by_examples_that_did_not_choose(found, slow):
    """To 1e-12: both are float64, and sum the same batches in another order."""
    part = found.fold.values
    assert np.bincount(part).tolist() == [TRUSTED // 3] * 3
    for name, k in product(CHOOSERS, KS):
        one = found.sel(chooser=name, k=k)
        removed, change = slow[(), name, k]
        assert set(one.removed.values.nonzero()[0]) == removed
        np.testing.assert_allclose(one.choosing_effect, change.mean(), rtol=0, atol=1e-12)
        unseen = np.choose(part, [slow[(f,), name, k][1] for f in range(3)])
        np.testing.assert_allclose(one.effect, unseen.mean(), rtol=0, atol=1e-12)
        assert one.low < one.effect < one.high
    assert found.loss == pytest.approx(losses_without([]).mean(), abs=1e-12)


def test_what_judges_has_no_part_in_the_set_nor_in_chooser_and_k(found, slow):
    """For each fold the best mean over the other folds, each by sets that it and the fold did not choose."""
    part = found.fold.values
    for f in range(3):

        def inner(one, f=f):
            return np.mean([slow[tuple(sorted((f, g))), *one][1][i] for i, g in enumerate(part) if g != f])

        best = min(product(CHOOSERS, KS), key=inner)
        assert inner(best) < 0  # six labels are wrong
        assert (found.fold_chooser.values[0, f], found.fold_k.values[0, f]) == best
        mine = slow[(f,), *best][1][part == f]
        np.testing.assert_allclose(found.judged.values[0, part == f], mine, rtol=0, atol=1e-12)


def test_a_tape_of_the_same_loop_gives_the_same(run, found):
    """Trusted examples come as a data set here, and as the run's own test set there."""
    trusted = torch.utils.data.TensorDataset(*sample(TRUSTED, 1))
    again = ik.curate(taped(None), trusted, choosers=CHOOSERS, k=KS, draws=3, folds=3)
    for name in ("effect", "low", "high", "choosing_effect", "predicted", "random", "influence", "judged"):
        np.testing.assert_allclose(again[name], found[name], rtol=0, atol=1e-9, err_msg=name)
    assert again.attrs["recommendation"] == found.recommendation


def test_the_seed_says_who_judges(run, found):
    other = ik.curate(run, k=KS, draws=3, folds=3, seed=1)
    assert (other.fold != found.fold).any()


def test_planted_wrong_labels_are_found_and_the_verdict_says_so(found):
    """Six of sixty labels are wrong; of six random examples four such would be among them once in 3,000
    times. Leaving them out helps by examples that had no part in the choice."""
    best = found.sel(chooser=found.attrs["chooser"], k=found.attrs["size"])
    assert best.effect == found.effect.min() and found.judged_high < 0
    assert found.judged_low < found.judged_effect == found.judged.mean() < found.judged_high
    assert found.judged_low <= best.choosing_effect  # more examples chose it than what is judged
    dropped, verified = found.is_influence_issue.values, found.verified.values
    assert dropped.sum() == found.attrs["size"] and dropped[:FLIPPED].sum() >= FLIPPED - 2
    assert (dropped == best.removed.values).all() and ((found.action == "drop") == dropped).all()
    assert (verified <= dropped).all() and verified[:FLIPPED].sum() >= FLIPPED - 2
    assert found.recommendation == f"drop the {dropped.sum()} most harmful by {found.attrs['chooser']}"
    assert found.verdict.startswith(f"{found.recommendation}: choosing so changes the mean loss of {TRUSTED}")
    ends = found.judged_effect, found.judged_low, found.judged_high
    for number in (*ends, best.choosing_effect, best.random.mean()):
        assert f"{float(number):+.2g}" in found.verdict
    assert best.effect < best.random.min() and "no better than" not in found.verdict
    scores = found.influence_score.values
    assert scores[dropped].max() <= scores[~dropped].min() and (scores[dropped] < 0.5).all()
    assert 0 <= scores.min() and scores.max() <= 1 and np.abs(scores - 0.5).max() == 0.5


def test_random_scores_drop_nothing():
    """On a problem without wrong labels. What they choose is no better than chance, so of six choices at 95
    % nearly all end in nothing."""
    run = ik.record(workload(flipped=0))
    found = [ik.curate(run, choosers=Chance(s), k=(6, 12), draws=1, seed=s, folds=3) for s in range(6)]
    nothing = [one for one in found if one.recommendation == "drop nothing"]
    assert len(nothing) >= 5
    for one in nothing:
        assert not one.is_influence_issue.any() and not one.verified.any() and (one.action == "keep").all()
        assert one.verdict.startswith("drop nothing: ")
        assert ("none of the 2 choices" in one.verdict) == bool(one.effect.min() >= 0)
        assert one.judged_high >= 0 or one.effect.min() >= 0
        best = one.sel(chooser=one.attrs["chooser"], k=one.attrs["size"])
        assert one.judged_low <= best.choosing_effect or not one.judged.any()


def test_equal_sets_are_retrained_once_and_counted_once(found):
    every = ik.curate(ik.record(workload()), choosers=CHOOSERS, k=(59,), draws=1, folds=3)
    assert every.trainings < 15  # 2 choosers x 7 groups and a draw leave one of sixty each
    assert every.plan.startswith("at most 15 sets are retrained") and "were different" in every.plan
    assert found.trainings <= 2 * 7 * len(KS) + 3 * len(KS)


def test_the_mean_of_choosers_is_that_of_their_scores_by_their_size(run):
    found = ik.curate(run, choosers="dit,if,mean", k=(3,), draws=1, folds=3)
    dit, steep, mean = found.influence.values
    expected = sum(x / np.sqrt(np.mean(x**2)) for x in (dit, steep)) / 2
    np.testing.assert_allclose(mean, expected, rtol=1e-9)
    assert np.isnan(found.predicted.sel(chooser="mean")).all() and found.predicted[:2].notnull().all()


def test_scores_that_are_no_effects_have_no_sum(run):
    found = ik.curate(run, choosers="dit,final-loss,aum,out-of-fold:folds=2", k=(2,), draws=1, folds=3)
    assert found.predicted.isel(k=0).isnull().values.tolist() == [False, True, True, True]
    assert found.effect.notnull().all() and found.influence.notnull().all()


def test_scores_for_sets_come_with_their_intercept(run):
    found = ik.curate(run, choosers="dit:centre=0.9", k=(2,), draws=1)
    scores = ik.estimate(run, "test-loss", "dit:centre=0.9")
    total = np.sort(scores.influence.values.ravel())[:2].sum() + scores.intercept.item()
    assert found.predicted.item() == pytest.approx(total, rel=1e-9)


def test_examples_that_no_step_holds_are_in_no_set():
    order = torch.arange(N)[:40].reshape(4, 10)
    found = ik.curate(ik.record(workload(order=order, epochs=1)), k=(5, 39), draws=4)
    assert not found.removed.values[..., 40:].any() and np.isfinite(found.random).all()


def test_in_a_run_of_several_the_scores_of_the_others_choose():
    """Starts are moved by as much as themselves, so that runs differ; the bias of the model counts."""
    model = torch.nn.Linear(3, 2, dtype=torch.float64)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.linspace(-1, 1, p.numel()).reshape(p.shape))
    run = ik.record(workload(model=model))
    found = ik.curate(run, k=(4,), draws=2, folds=3, runs=3, moved=1.0)
    assert found.run.values.tolist() == ["recorded", "moved 1", "moved 2"]
    runs = [run, *(Moved(1.0, number).again(run) for number in (1, 2))]
    part = found.fold.values
    scores = [ik.estimate(one, "test-losses").influence.values[:, 0] for one in runs]
    effects = np.zeros((3, TRUSTED))
    for r, f in product(range(3), range(3)):
        others = np.mean([scores[s][part != f].mean(0) for s in range(3) if s != r], axis=0)
        gone = np.argsort(others)[:4]
        alone = ik.evaluation.retraining.set_effects(
            runs[r], ik.make("query", "test-losses"), np.isin(np.arange(N), gone)[None],
            [ik.Window(0, run.steps)],
        )  # fmt: skip
        effects[r, part == f] = alone[part == f, 0, 0]
    np.testing.assert_allclose(found.effect_runs[:, 0, 0], effects.mean(1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.effect.item(), effects.mean(), rtol=0, atol=1e-12)
    assert found.judged.shape == (3, TRUSTED)
    assert "in 3 runs" in found.verdict or found.effect.min() >= 0
