"""Laws that hold across the whole package: the sign, the ids, the seed, the dtype, the user's training."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from influencekit import SGD, AdamW, Window, Workload, compare, estimate, make, record
from influencekit.testing import plain_run, retrained, tiny_workload, unrolled_gradient
from influencekit.testing.untouched import untouched

ALL = ("dit", "dit:curvature=gauss-newton", "dit:curvature=fisher", "sgd-influence", "if", "loo")
LOSSES = make("query", "test-losses")


def separable(n=40, flipped=(3, 11)):
    """Two clear classes, two labels of which are wrong; trained to the end."""
    generator = torch.Generator().manual_seed(0)
    y = (torch.arange(n) % 2).double()
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64) * 0.4 + (2 * y - 1)[:, None]
    wrong = y.clone()
    wrong[list(flipped)] = 1 - wrong[list(flipped)]
    model = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)).double()
    with torch.no_grad():
        model[0].weight.fill_(0.1)
        model[0].bias.zero_()
    return Workload(
        model=model, loss=nn.BCEWithLogitsLoss(reduction="none"), train=(x, wrong), test=(x, y),
        optimizer=SGD(lr=0.1), epochs=5, batch_size=8, train_ids=[f"id-{i}" for i in range(n)],
    )  # fmt: skip


@cache
def recorded(variant="", again=False):
    """The run above, recorded once a variant (and once `again`)."""
    workload = separable()
    if variant == "shuffled":
        perm = torch.randperm(40, generator=torch.Generator().manual_seed(1))
        workload = replace(
            workload,
            train=tuple(part[perm] for part in workload.train),
            train_ids=[workload.train_ids[int(i)] for i in perm],
            order=perm.argsort()[workload.plan.indices],
        )
    elif variant == "float32":
        workload = workload.to(dtype=torch.float32)
    elif variant:
        workload = replace(workload, seed=int(variant))
    return record(workload)


@pytest.mark.parametrize("name", ALL)
def test_mislabelled_examples_are_the_most_negative(name):
    """The sign, once and everywhere: removal minus full, so what harms the test loss is negative."""
    result = estimate(recorded(), "test-loss", name).influence[0, 0]
    assert set(result.sortby(result).train.values[:2]) == {"id-3", "id-11"}
    assert (result.sel(train=["id-3", "id-11"]) < 0).all() and (result > 0).sum() > 30


def test_the_estimate_is_the_change_that_retraining_shows():
    workload = separable()
    i = 11
    full, without = plain_run(workload)[-1], plain_run(workload, i, (0, 25))[-1]
    change = (workload.losses(without, workload.test) - workload.losses(full, workload.test)).mean().item()
    loo = estimate(recorded(), "test-loss", "loo").influence.sel(train="id-11").item()
    assert loo == pytest.approx(change, rel=1e-9) and loo < 0


@pytest.mark.parametrize("name", ALL)
def test_scores_follow_their_ids_when_examples_are_shuffled(name):
    """Another order of the training set with the same batches: the same number for the same id."""
    a, b = (estimate(recorded(v), "test-loss", name).influence for v in ("", "shuffled"))
    assert a.train.values.tolist() != b.train.values.tolist()
    np.testing.assert_allclose(b.sel(train=a.train.values), a, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("name", ALL)
def test_float32_agrees_with_float64_as_far_as_it_can(name):
    """Rounding at 6e-8 of theta and of the scores' terms; a wrong cast would show in the third digit."""
    found, expected = (estimate(recorded(v), "test-loss", name).influence.values for v in ("float32", ""))
    assert found.dtype == np.float32
    # leave-one-out subtracts two losses of order 1 that differ in the third digit
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_gives_the_same_bits_and_another_one_another_order(name):
    def run(seed, again=False):
        return estimate(recorded(str(seed), again), "test-loss", name).influence.values

    first = run(5)
    assert first.tobytes() == run(5, again=True).tobytes() and not np.array_equal(first, run(6))


def test_the_callers_random_state_and_modes_are_untouched_by_every_verb():
    workload = separable()
    with untouched("verbs", workload):
        trajectory = record(workload)
        for name in ALL:
            estimate(trajectory, "test-loss", name)
        compare(workload, ["dit"], seeds=(0,))


@pytest.mark.parametrize("name", ["dit", "loo"])
def test_under_no_grad_and_with_grad_the_same(name):
    trajectory = record(tiny_workload())
    windows = [Window(0, 6)]
    expected = make("estimator", name).scores(trajectory, LOSSES, windows)
    with torch.no_grad():
        found = make("estimator", name).scores(record(tiny_workload()), LOSSES, windows)
    assert torch.equal(found, expected) and not found.requires_grad


def test_removal_takes_its_share_of_the_penalty_with_it():
    """L2 belongs to each example's loss: without j the pull to zero is weaker by 1/b in its batches."""
    workload = tiny_workload(l2=0.5)
    whole = [Window(0, 6)]
    loo = make("estimator", "loo").scores(record(workload), LOSSES, whole)
    assert torch.allclose(loo, retrained(workload, LOSSES, whole), rtol=1e-9, atol=1e-13)
    as_decay = tiny_workload(SGD(lr=0.3, weight_decay=0.5), l2=0.0)  # the optimizer's penalty stays whole
    other = make("estimator", "loo").scores(record(as_decay), LOSSES, whole)
    assert not torch.allclose(loo, other, rtol=1e-2)
    assert torch.allclose(plain_run(workload)[-1], plain_run(as_decay)[-1], rtol=1e-12)


def test_first_order_and_retraining_meet_for_small_steps():
    """Effects of order lr^2: halving the learning rate at least halves the relative difference."""
    differences = []
    for lr in (0.2, 0.1, 0.05):
        workload = tiny_workload(SGD(lr=lr), l2=0.0)
        whole = [Window(0, 6)]
        first, exact = unrolled_gradient(workload, LOSSES, whole), retrained(workload, LOSSES, whole)
        differences.append(((first - exact).norm() / exact.norm()).item())
    assert differences[1] < 0.6 * differences[0] and differences[2] < 0.6 * differences[1]


def test_agreement_of_an_estimator_with_itself_is_one():
    result = compare(separable(), ["loo", "dit"], seeds=(0, 1))
    own = result.agreement.sel(estimator="loo")
    np.testing.assert_allclose(own, 1.0, atol=1e-12)
    assert (result.agreement.sel(estimator="dit", metric="pearson") > 0.99).all()


@pytest.mark.gpu
@pytest.mark.parametrize("name", [n for n in ALL if n != "sgd-influence"])
def test_the_whole_way_on_cuda_equals_the_cpu(name):
    workload = replace(separable(), optimizer=AdamW(lr=0.05, eps=0.01))
    there = estimate(record(workload.to("cuda")), "test-loss", name).influence
    here = estimate(record(workload), "test-loss", name).influence
    np.testing.assert_allclose(there, here, rtol=1e-6, atol=1e-12)
