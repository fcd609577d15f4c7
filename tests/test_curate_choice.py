"""Folds, choices and intervals of a curation: laws of plain arrays."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import influencekit as ik
from influencekit._verbs.curate.choice import judged, wide_intervals
from influencekit._verbs.curate.choosers import Scores, combined
from influencekit._verbs.curate.folds import PartLosses, folds_of
from influencekit._verbs.curate.sets import intervals
from influencekit.testing import tiny_workload

shapes = given(
    seed=st.integers(0, 2**32), count=st.integers(3, 6), runs=st.integers(1, 4), examples=st.integers(24, 40)
)


@given(count=st.integers(20, 60), folds=st.integers(3, 5), seed=st.integers(0, 2**64))
def test_folds_are_of_one_size_and_drawn_by_the_seed(count, folds, seed):
    dealt = folds_of(count, folds, seed)
    sizes = np.bincount(dealt.part, minlength=folds)
    assert sizes.sum() == count and sizes.max() - sizes.min() <= 1
    assert (folds_of(count, folds, seed).part == dealt.part).all()
    assert len(dealt.groups) == 1 + folds + folds * (folds - 1) // 2


@shapes
def test_what_a_fold_says_has_no_part_in_its_choice(seed, count, runs, examples):
    """Its own changes may be anything: chooser and k stay, of its run and, for the others, of any run."""
    generator = np.random.default_rng(seed)
    folds = folds_of(examples, count, seed)
    change = generator.normal(size=(runs, examples, len(folds.groups), 2, 3))
    choices, _ = judged(change, folds)
    for fold in range(count):
        other = change.copy()
        other[:, folds.part == fold] = 100 * generator.normal(size=other[:, folds.part == fold].shape)
        assert [row[fold] for row in judged(other, folds)[0]] == [row[fold] for row in choices]
    if runs > 1:
        other = change.copy()
        other[0] = 100 * generator.normal(size=other[0].shape)
        assert judged(other, folds)[0][0] == choices[0]


@shapes
def test_the_scores_that_choose_are_those_of_other_folds_and_runs(seed, count, runs, examples):
    generator = np.random.default_rng(seed)
    folds = folds_of(examples, count, seed)
    losses = generator.normal(size=(runs, examples, 2, 7))  # scores of each trusted example
    means = np.stack([losses[:, folds.part == f].mean(1) for f in range(count)], 1)
    every = [Scores(x, x[..., 0], []) for x in means]
    found, starts = combined(every, folds, mean=False)
    for size in (0, 1, 2):
        for group in combinations(range(count), size):
            for run in range(runs):
                others = [r for r in range(runs) if r != run and size] or [*range(runs)]
                expected = losses[others][:, ~np.isin(folds.part, group)].mean((0, 1))
                one = found[run, folds.groups[group]]
                np.testing.assert_allclose(one, expected, rtol=0, atol=1e-12)
                np.testing.assert_allclose(starts[run, folds.groups[group]], expected[:, 0], atol=1e-12)


@pytest.mark.parametrize("batches", ["tuple", "dict"])
def test_part_losses_are_means_of_the_losses(batches):
    work = tiny_workload(classes=3, batches=batches)
    part = torch.tensor([0, 1, 2, 0, 1])
    query = PartLosses(part, 3)
    losses = work.losses(work.theta0, work.test)
    expected = torch.stack([losses[part == f].mean() for f in range(3)])
    torch.testing.assert_close(query.evaluate(work, work.theta0), expected)
    slopes = torch.func.jacrev(lambda theta: query.evaluate(work, theta))(work.theta0)
    torch.testing.assert_close(query.gradient(work, work.theta0), slopes)


def plain_ends(values, level, resamples=2000):
    generator = np.random.default_rng(1)
    runs, n = values.shape
    means = [values[generator.choice(runs, runs)][:, generator.choice(n, n)].mean() for _ in range(resamples)]
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2])


@pytest.mark.parametrize("runs", [1, 4])
def test_the_interval_is_a_plain_bootstrap_wider_by_a_quarter(runs):
    """Ends of 2,000 resamples of 50 examples lie within a tenth of the interval's width of those of another
    2,000. Of several runs, both are drawn again."""
    generator = np.random.default_rng(0)
    values = generator.exponential(size=(runs, 50)) + generator.normal(size=(runs, 1))
    ends = wide_intervals(values[..., None], 0.9, 2000, 0)
    low, high = values.mean() + 1.25 * (plain_ends(values, 0.9) - values.mean())
    np.testing.assert_allclose(np.ravel(ends), [low, high], rtol=0, atol=(high - low) / 10)
    ends = intervals(values[0, :, None], 0.9, 2000, 0)
    low, high = plain_ends(values[:1], 0.9)
    np.testing.assert_allclose(np.ravel(ends), [low, high], rtol=0, atol=(high - low) / 10)


def test_too_few_and_too_many_folds_are_refused():
    with pytest.raises(ik.InputError, match="folds must be from 3 to 6, got 2"):
        folds_of(24, 2, 0)
    with pytest.raises(ik.InputError, match="folds must be from 3 to 6, got 7"):
        folds_of(24, 7, 0)
