"""Detection equals its definitions, written as loops over pairs and orders; flips change labels only."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import influencekit as ik
from influencekit import InputError
from influencekit.evaluation import MislabelAUC, detection, flipped


def scores(values, dims=("train",)) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, dtype=float), dims=dims)


def cases(low: int, high: int):
    """Scores with many ties, and a mask that is neither empty nor full."""

    def both(n):
        ties = st.lists(st.integers(-2, 2), min_size=n, max_size=n)
        return st.tuples(ties, st.lists(st.booleans(), min_size=n, max_size=n))

    pairs = st.integers(low, high).flatmap(both)
    return pairs.filter(lambda c: any(c[1]) and not all(c[1]))


@settings(max_examples=150, deadline=None)
@given(cases(2, 12))
def test_auc_is_the_fraction_of_pairs_in_the_right_order(case):
    x, mask = case
    bad = [v for v, m in zip(x, mask, strict=True) if m]
    good = [v for v, m in zip(x, mask, strict=True) if not m]
    pairs = [1.0 if b < g else 0.5 if b == g else 0.0 for b in bad for g in good]
    assert float(detection(scores(x), np.array(mask)).auc) == pytest.approx(np.mean(pairs))


@settings(max_examples=150, deadline=None)
@given(cases(2, 12))
def test_average_precision_is_the_area_under_the_steps_at_the_distinct_scores(case):
    x, mask = (np.array(v) for v in case)
    area, recall = 0.0, 0.0
    for threshold in sorted(set(x.tolist())):
        taken = x <= threshold
        now = (taken & mask).sum() / mask.sum()
        area += (now - recall) * (taken & mask).sum() / taken.sum()
        recall = now
    assert float(detection(scores(x), mask).average_precision) == pytest.approx(area)


@settings(max_examples=40, deadline=None)
@given(cases(2, 5))
def test_found_and_the_curves_are_the_mean_over_all_orders_of_equal_scores(case):
    x, mask = (np.array(v) for v in case)
    n, m = len(x), mask.sum()
    orders = [o for o in permutations(range(n)) if all(x[a] <= x[b] for a, b in zip(o, o[1:], strict=False))]
    hits = np.mean([np.cumsum(mask[list(o)]) for o in orders], axis=0)
    found = detection(scores(x), mask)
    assert float(found.found) == pytest.approx(hits[m - 1])
    np.testing.assert_allclose(found.precision, hits / np.arange(1, n + 1))
    np.testing.assert_allclose(found.recall, hits / m)
    assert found.k.values.tolist() == list(range(1, n + 1))


@settings(max_examples=60, deadline=None)
@given(cases(3, 12), st.randoms(use_true_random=False))
def test_the_order_of_the_examples_changes_nothing(case, random):
    x, mask = (np.array(v) for v in case)
    order = list(range(len(x)))
    random.shuffle(order)
    xr.testing.assert_allclose(detection(scores(x), mask), detection(scores(x[order]), mask[order]))


def test_a_perfect_ranking_and_its_opposite():
    mask = np.array([True, False, False, True, False])
    best = detection(scores(np.where(mask, -1.0, 1.0)), mask)
    assert (best.found, best.auc, best.average_precision) == (2, 1, 1)
    worst = detection(scores(np.where(mask, 1.0, -1.0)), mask)
    assert (worst.found, worst.auc) == (0, 0)


def test_each_row_is_judged_by_itself_with_a_mask_of_its_own():
    rng = np.random.default_rng(0)
    x = scores(rng.normal(size=(2, 3, 10)).round(1), ("estimator", "seed", "train"))
    mask = xr.DataArray(np.arange(10) < np.array([[2], [4], [3]]), dims=("seed", "train"))
    x = x.assign_coords(estimator=["a", "b"], accuracy=("seed", [0.5, 0.75, 1.0]))
    both = detection(x.transpose("train", "seed", "estimator"), mask)
    assert both.estimator.values.tolist() == ["a", "b"] and both.accuracy.dims == ("seed",)
    assert both.corrupted.values.tolist() == [[2, 2], [4, 4], [3, 3]]
    for e in range(2):
        for s in range(3):
            one = detection(x[e, s], mask[s].values)
            for name in one.data_vars:
                np.testing.assert_allclose(both[name].isel(estimator=e, seed=s), one[name])


@pytest.mark.parametrize(
    ("x", "mask", "message"),
    [
        (np.ones(4), np.zeros(4, bool), "some examples must be corrupted and some not; 0 of 4 are"),
        (np.ones(4), np.ones(4, bool), "4 of 4 are"),
        (np.array([1, np.nan]), np.array([True, False]), "hold NaN; drop"),
        (np.ones(4), np.array([True, False]), "mask of 4 examples, got shape .2."),
        (np.ones(4), np.array([1, 0, 0, 0]), "mask of booleans, got int64"),
        (np.ones(2), xr.DataArray([[True, False]], dims=("seed", "train")), "does not fit"),
    ],
)
def test_what_cannot_be_judged_is_named(x, mask, message):
    with pytest.raises(InputError, match=message):
        detection(scores(x), mask)


def test_scores_and_mask_of_other_examples_are_refused():
    x = scores([1, 2]).assign_coords(train=["a", "b"])
    mask = xr.DataArray([True, False], dims="train", coords={"train": ["b", "c"]})
    with pytest.raises(InputError, match="not of the same examples"):
        detection(x, mask)
    with pytest.raises(InputError, match="expected scores .*, got ndarray"):
        detection(x.values, mask)


class Named(nn.Linear):
    """Takes x from a dict as well."""

    def forward(self, x):
        return super().forward(x)


def workload(target: torch.Tensor, *, as_dict: bool = False) -> ik.Workload:
    n = len(target)
    inputs = torch.arange(n * 2.0).reshape(n, 2)
    data = {"x": inputs, "labels": target} if as_dict else (inputs, target)
    return ik.Workload(
        model=Named(2, 3), loss=lambda out, y: out.sum(-1) * y.reshape(len(y)), train=data, test=data,
        optimizer=ik.SGD(lr=0.1), info={"spec": "some-workload", "data": "numbers"},
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 60), st.floats(0.02, 1.0), st.integers(0, 9), st.booleans(),
    st.sampled_from([torch.float32, torch.int64, torch.bool]), st.integers(2, 5),
)  # fmt: skip
def test_so_many_labels_are_flipped_and_nothing_else(n, fraction, seed, as_dict, dtype, classes):
    assume(fraction * n >= 1 and int(fraction * n) == int(fraction * n + 1e-6))
    classes = classes if dtype == torch.int64 else 2
    target = (torch.arange(n) % classes).to(dtype)
    work = workload(target, as_dict=as_dict)
    changed, mask = flipped(work, fraction, seed)
    assert mask.sum() == int(fraction * n)
    other = changed.target(changed.train)
    np.testing.assert_array_equal((other != target).numpy(), mask)
    assert other.dtype == dtype and set(other.tolist()) <= set(target.tolist())
    assert torch.equal(work.target(work.train), target)  # the original is as it was
    first = [w.train["x"] if as_dict else w.train[0] for w in (work, changed)]
    assert first[0] is first[1] and changed.test is work.test
    assert torch.equal(changed.plan.indices, work.plan.indices)
    assert changed.info == {"data": "numbers", "flipped": int(fraction * n)}
    np.testing.assert_array_equal(flipped(work, fraction, seed)[1], mask)


def test_the_papers_fractions_of_256_are_the_papers_numbers():
    work = workload(torch.arange(256) % 2)
    assert [flipped(work, s)[1].sum() for s in (0.05, 0.1, 0.15, 0.2)] == [12, 25, 38, 51]
    assert flipped(workload(torch.arange(100) % 2), 0.29)[1].sum() == 29
    assert (flipped(work, seed=0)[1] != flipped(work, seed=1)[1]).any()


def test_another_class_is_any_other_class_and_a_column_of_labels_stays_one():
    work = workload(
        torch.full((3000,), 7).index_fill(0, torch.tensor([0]), 2).index_fill(0, torch.tensor([1]), 9)
    )
    changed, mask = flipped(work, 1.0)
    assert np.unique(changed.train[1][2:].numpy(), return_counts=True)[1] == pytest.approx(
        [1499] * 2, abs=120
    )
    column = replace(work, train=(work.train[0], (work.train[1] == 7).float()[:, None]))
    assert flipped(column, 1.0)[0].train[1].sum() == 2


@pytest.mark.parametrize("classes", [2, 3])
def test_labels_that_the_loss_ignores_are_not_flipped_nor_planted_nor_judged(classes):
    """-100 counted as a class: it was flipped, became the new label, and its loss of 0 as found for right."""
    x, y = torch.randn(40, 4), torch.arange(40) % classes
    y[25:] = -100
    loss = nn.CrossEntropyLoss(reduction="none")
    work = ik.Workload(
        model=nn.Linear(4, classes), loss=loss, train=(x, y), test=(x[:25], y[:25]), optimizer=ik.SGD(lr=0.1)
    )
    changed, mask = flipped(work, 0.4)
    assert mask.sum() == 10 and not mask[25:].any()  # of 25
    assert set(changed.train[1][torch.from_numpy(mask)].tolist()) == {*range(classes)}
    found = ik.evaluate(ik.record(work), MislabelAUC(0.4), "test-loss", "final-loss")[
        "mislabel-auc:fraction=0.4"
    ]
    losses = loss(nn.functional.linear(x, *of_final(ik.record(changed))), changed.train[1]).detach().numpy()
    bad, good = losses[mask], losses[:25][~mask[:25]]
    assert found.control_auc.item() == pytest.approx((bad[:, None] > good).mean())
    assert found.auc.item() == pytest.approx((bad[:, None] > good).mean()) and found.attrs["examples"] == 25


def of_final(run):
    """Weight and bias of a linear model at the end of the run."""
    theta = run.final.theta
    rows = len(theta) // 5
    return theta[: 4 * rows].reshape(rows, 4), theta[4 * rows :]


@pytest.mark.parametrize(
    ("target", "fraction", "message"),
    [
        (torch.arange(9) % 2, 0.1, "at least one of 9 labels"),
        (torch.arange(9) % 2, 1.1, "at most all, got 1.1"),
        (torch.rand(9), 0.5, "not classes"),
        (torch.zeros(9, 2, dtype=torch.int64), 0.5, "one label an example, got targets of shape .9, 2."),
        (torch.ones(9), 0.5, "all 9 are 1"),
    ],
)
def test_labels_that_cannot_be_flipped_are_named(target, fraction, message):
    with pytest.raises(InputError, match=message):
        flipped(workload(target), fraction)


def test_data_without_labels_and_taped_runs_are_refused():
    work = workload(torch.arange(9) % 2)
    with pytest.raises(InputError, match="their own targets"):
        flipped(replace(work, train=torch.rand(9, 2)), 0.5)
    taped = replace(work)
    object.__setattr__(taped, "train", torch.utils.data.TensorDataset(*work.train))
    with pytest.raises(InputError, match="taped run"):
        flipped(taped, 0.5)


def test_flipped_labels_are_found_in_a_real_run():
    work, mask = flipped(ik.make("workload", "mnist-1v7-lr", setting="trained", epochs=4), 0.1)
    found = detection(ik.estimate(ik.record(work)).influence.squeeze("query", drop=True), mask)
    assert found.found.dims == ("window",) and float(found.auc[0]) > 0.9
