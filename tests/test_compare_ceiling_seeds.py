"""A comparison over several seeds: its agreement across them, and other seeds as the ceiling."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from helpers_ceiling import ROUGH, SAME, SMALL
from helpers_cli import workload
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

import influencekit as ik
from influencekit._verbs.cross_seed import across_seeds
from influencekit.cli.ceiling import print_beside
from influencekit.cli.summary import summarise
from influencekit.metrics import METRICS


def test_data_seed_holds_the_examples_and_the_seed_changes_start_and_order():
    first, other = (ik.make("workload", ROUGH, data_seed=5, seed=s) for s in (1, 2))
    assert first.train_ids == other.train_ids and first.test_ids == other.test_ids
    assert torch.equal(first.train[0], other.train[0]) and torch.equal(first.test[0], other.test[0])
    assert not torch.equal(first.theta0, other.theta0)
    assert not torch.equal(first.plan.indices, other.plan.indices)
    plain = ik.make("workload", ROUGH, seed=5)
    assert plain.train_ids == first.train_ids, "the draw is that of this seed"


def test_agreement_across_seeds_is_the_mean_over_ordered_pairs():
    seeds = (0, 1, 2)
    found = ik.compare(SAME, ["dit", "loo"], seeds=seeds, cross_seed=True)
    assert found.cross_agreement.dims == ("estimator", "metric", "query", "window")
    for name in ("dit", "loo"):
        scores, truth = (found.influence.sel(estimator=n).squeeze().values for n in (name, "loo"))
        expected = np.mean([spearmanr(scores[a], truth[b])[0] for a, b in permutations(seeds, 2)])
        value = found.cross_agreement.sel(estimator=name, metric="spearman").item()
        assert value == pytest.approx(expected)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.permutations(range(4)))
def test_the_order_of_seeds_does_not_matter_across_them(seed, order):
    scores = torch.randn(2, 4, 1, 1, 12, generator=torch.Generator().manual_seed(seed))
    found = across_seeds(scores, scores[1], "signed")
    torch.testing.assert_close(found, across_seeds(scores[:, order], scores[1, order], "signed"))
    assert found.shape == (2, len(METRICS), 1, 1)
    alone = across_seeds(scores[:, :1], scores[1, :1], "signed")
    assert alone.isnan().all() and alone.shape == found.shape


def test_constant_scores_are_left_out_across_seeds_and_nan_is_what_remains_of_none():
    scores = torch.randn(1, 3, 1, 1, 12)
    flat = scores.clone()
    flat[:, 0] = 1
    assert across_seeds(flat, scores[0], "signed").isfinite().all()
    assert across_seeds(torch.ones_like(scores), scores[0], "signed")[0, 0].isnan().all()


def other_data(seed: int) -> ik.Workload:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
    return workload(train=(x, x[:, 0]))


def other_test(seed: int) -> ik.Workload:
    problem = workload()
    return replace(problem, test=(problem.test[0] + seed, problem.test[1]), seed=seed)


@pytest.mark.parametrize(
    ("problem", "seeds", "why"),
    [
        (SMALL, (0, 1), "seeds 0 and 1 draw different examples"),
        (other_data, (0, 1), "seeds 0 and 1 call different training examples by the same ids"),
        (other_test, (0, 1), "seeds 0 and 1 have different test sets"),
        (SMALL, (0,), "there is one seed; name several"),
    ],
)
def test_seeds_with_different_data_have_no_agreement_across_them_and_it_says_why(problem, seeds, why, capsys):
    found = ik.compare(problem, ["loo"], seeds=seeds, cross_seed=True)
    assert "cross_agreement" not in found and found.attrs["cross_note"].startswith(why)
    summary = summarise(found)
    assert summary["cross_seed"] == {"absent": found.attrs["cross_note"]}
    print_beside(summary)
    assert capsys.readouterr().out.strip().startswith(f"No agreement across seeds: {why}")


def test_seeds_as_the_ceiling_keep_each_runs_examples_and_show_other_seeds_where_they_can():
    found = ik.compare(ROUGH, ["dit"], seeds=(3,), ceiling="seeds", runs=2)
    work = ik.make("workload", ROUGH, seed=3)
    other = ik.make("workload", ROUGH, seed=1003)
    again = ik.record(replace(work, model=other.model, seed=other.seed))
    truth = found.influence.sel(estimator="loo").squeeze().values
    expected = spearmanr(ik.estimate(again, estimator="loo").influence.squeeze(), truth)[0]
    assert found.loo_again.sel(metric="spearman").item() == pytest.approx(expected)
    assert found.attrs["cross_note"].startswith("there is one seed")
    assert "other starts and batch orders on the same examples" in found.attrs["ceiling_note"]
