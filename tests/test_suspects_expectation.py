"""What planted labels let one expect: laws of plain arrays, whose wrong labels are known."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from influencekit._effects.labels import Labels
from influencekit._verbs.suspects.calibration import depth_of, normal_scores
from influencekit._verbs.suspects.counting import Mixture, fractions_wrong, most_wrong, none_wrong
from influencekit._verbs.suspects.expectation import Planted, expected, suspicion_of
from influencekit._verbs.suspects.planting import Plant
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
        draws = fractions_wrong([mixture], 200, (seed,))
        low, high = np.quantile(draws, [0.025, 0.975])
        inside += low <= wrong.mean() <= high or (pi == 0 and low <= 0.002)
        estimates.append(np.median(draws))
    assert inside >= 18 and np.mean(estimates) == pytest.approx(pi, abs=0.01)


def test_few_trusted_examples_rule_out_that_no_label_is_wrong_only_where_they_can():
    """Classes that overlap, 600 examples and 150 trusted ones: without wrong labels few of 200 tests say
    that there are some; with a fifth nearly all do, and with many more trusted ones a tenth is enough."""

    def tests(pi, trusted, margin, count=200):
        found = []
        for seed in range(count):
            generator = np.random.default_rng(seed)
            of, known = generator.integers(0, 2, 600), generator.integers(0, 2, trusted)
            m, held = generator.normal(margin, 1, 600), generator.normal(margin, 1, trusted)
            wrong = generator.random(600) < pi
            label, own = np.where(wrong, 1 - of, of), np.where(wrong, -m, m)
            of_trusted = [np.where(known == k, held, -held)[None] for k in (0, 1)]
            found.append(
                none_wrong(
                    [
                        Mixture(own[label == k], v, v, 1.0 * (known == k), 1.0 * (known != k))
                        for k, v in enumerate(of_trusted)
                    ]
                )
            )
        return np.array(found)

    for margin in (0.35, 1.5):
        assert (tests(0.0, 150, margin) < 0.05).mean() <= 0.09  # 3.4 deviations above .05 are .10
    assert (tests(0.2, 150, 0.7) < 0.05).mean() >= 0.7
    assert (tests(0.1, 600, 1.5) < 0.05).mean() >= 0.95


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
        apart.append(np.median(fractions_wrong(mixtures, 50, (seed,)), 0) @ [700, 1300] / 2000)
        sign = np.where(trusted_y, 1, -1)
        every = Mixture(np.where(given, 1, -1) * logit, sign * trusted, -sign * trusted, *np.ones((2, 500)))
        together.append(np.median(fractions_wrong([every], 50, (seed,))))
    assert np.mean(apart) == pytest.approx(wrong, abs=0.01)
    assert abs(np.mean(together) - wrong) > 0.03


def test_a_wrong_label_that_is_flipped_is_right_again_as_often_as_it_came_from_there():
    """20,000 labels of three classes, made wrong and then flipped by the same table."""
    generator = np.random.default_rng(0)
    right = generator.choice(3, 20_000, p=[0.5, 0.3, 0.2])
    towards = np.array([[0, 0.7, 0.3], [0.2, 0, 0.8], [0.5, 0.5, 0]])
    labels = Labels("classes", 1, torch.from_numpy(right), torch.arange(3))
    given, flipped = (np.empty_like(right) for _ in range(2))
    for of, to in ((right, given), (given, flipped)):
        for k in range(3):
            to[of == k] = generator.choice(3, (of == k).sum(), p=towards[k])
    for k, c in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]:
        some = (given == k) & (flipped == c)
        says = Plant(labels, towards).undone(np.array([k]), np.array([c]))[0]
        assert (right == flipped)[some].mean() == pytest.approx(says, abs=0.03)


def plantings(wrong, given, undone, generator):
    """What four plantings in labels `given` of two find, with a score two deviations apart."""
    found, n = [], len(wrong)
    for _ in range(4):
        chosen = np.sort(generator.choice(n, n // 20, replace=False))
        planted = np.isin(np.arange(n), chosen)
        bad = np.where(planted & wrong, undone == 0, planted | wrong)
        depth = depth_of(generator.normal(2.0 * bad, 1), planted, np.arange(n))
        found.append(Planted(depth, given[chosen], 1 - given[chosen], np.full(len(chosen), undone)))
    return found


@pytest.mark.parametrize("undone", [0.0, 1.0])
def test_expected_precision_is_that_of_labels_known_to_be_wrong(undone):
    """1,000 examples of which 100 are wrong, and plantings in the same; to .04 on the mean of ten."""
    off = []
    for seed in range(10):
        generator, n = np.random.default_rng(seed), 1000
        wrong, given = np.arange(n) < 100, np.arange(n) % 2
        order = np.argsort(-generator.normal(2.0 * wrong, 1))
        found = plantings(wrong, given, undone, generator)
        hopes = expected(found, given[order], np.full((50, 2), 0.1), 0.9, (seed,), bound=False)
        off.append([hopes.precision[k - 1] - wrong[order[:k]].mean() for k in (50, 100, 200)])
    np.testing.assert_allclose(np.mean(off, 0), 0, atol=0.04)


def test_precision_counts_where_the_wrong_labels_are():
    """190 of 200 wrong labels are of one given label, and those of the other are hard to tell: on the mean of
    ten, each label by itself is right to .03, both together are off by more than .08."""
    apart, together = [], []
    for seed in range(10):
        generator, n = np.random.default_rng(seed), 2000
        given = np.arange(n) % 2
        wrong = np.isin(np.arange(n), [*np.flatnonzero(given)[:190], *np.flatnonzero(1 - given)[:10]])

        def score(bad, label, generator=generator):
            return generator.normal(np.where(label == 1, 2.5, 0.5) * bad, 1)

        found = []
        for _ in range(4):
            chosen = np.sort(generator.choice(n, 100, replace=False))
            planted, label = np.isin(np.arange(n), chosen), given.copy()
            label[chosen] = 1 - label[chosen]
            depth = depth_of(score(wrong ^ planted, label), planted, np.arange(n))
            found.append(Planted(depth, given[chosen], label[chosen], np.ones(100)))
        order = np.argsort(-score(wrong, given))
        truth = wrong[order[:200]].mean()
        fractions = np.tile([0.01, 0.19], (20, 1))
        apart.append(expected(found, given[order], fractions, 0.9, (0,), bound=False).precision[199] - truth)
        one = [Planted(x.depth, 0 * x.before, 0 * x.after, x.undone) for x in found]
        together.append(
            expected(one, 0 * order, np.full((20, 1), 0.1), 0.9, (0,), False).precision[199] - truth
        )
    assert abs(np.mean(apart)) < 0.03 and abs(np.mean(together)) > 0.08


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(2, 60), st.integers(1, 3), st.floats(0, 0.9))
def test_expected_numbers_keep_to_what_there_is(seed, n, groups, pi):
    """No more wrong ones than examples, nor than the fraction says; precision falls; intervals hold it."""
    generator = np.random.default_rng(seed)
    found = [
        Planted(generator.random(m), *generator.integers(0, groups, (2, m)), generator.random(m))
        for m in generator.integers(1, 6, 2)
    ]
    of = generator.integers(0, groups, n)
    hopes = expected(found, of, np.full((9, groups), pi), 0.9, (seed,), bound=False)
    number = hopes.precision * np.arange(1, n + 1)
    assert (np.diff(hopes.precision) <= 1e-9).all() and (np.diff(number) >= -1e-9).all()
    assert hopes.precision[0] <= 1 + 1e-9 and number[-1] <= pi * n + 1e-9
    assert hopes.issues == pytest.approx(3 * (pi * n,))
    assert (hopes.low <= hopes.precision).all() and (hopes.precision <= hopes.high).all()


def test_few_wrong_labels_of_many_given_labels_are_not_lost():
    """Ten labels, in each of which three draws of four say that none is wrong, and one that two are."""
    fractions = np.where(np.arange(40)[:, None] % 4 == np.arange(10) % 4, 2 / 100, 0.0)
    groups = np.arange(1000) % 10
    found = [Planted(np.linspace(0, 0.02, 20), np.arange(20) % 10, np.arange(20) % 10, np.ones(20))] * 2
    hopes = expected(found, groups, fractions, 0.9, (0,), bound=False)
    assert hopes.issues[0] == pytest.approx(5) and hopes.issues[1] <= 5 <= hopes.issues[2]
    assert hopes.precision[-1] * 1000 == pytest.approx(5, abs=0.1)


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
