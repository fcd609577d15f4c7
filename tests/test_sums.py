"""How far a sum of scores holds: its parts beside removals of their own, and the sentence about them."""

from copy import deepcopy

import numpy as np
import pytest
import torch
import xarray as xr
from helpers_step import conv_workload, quick, traced  # noqa: F401 (a fixture)
from hypothesis import given, settings
from hypothesis import strategies as st
from test_screen import LOSSES, TRAJECTORY, WINDOWS, close
from torch import nn
from torch.nn.functional import logsigmoid

import influencekit as ik
from influencekit import SGD, InputError
from influencekit._effects.sums import verdict

pytestmark = pytest.mark.usefixtures("quick")


@settings(max_examples=6)
@given(st.sets(st.integers(0, 7), min_size=1, max_size=6), st.integers(1, 4))
def test_the_parts_of_a_set_are_the_removals_of_its_strongest_examples(gone, parts):
    """Each part beside a removal of its own, and the last beside plain retraining."""
    workload = TRAJECTORY.workload
    ids = [workload.train_ids[i] for i in gone]
    scores = ik.estimate(TRAJECTORY, LOSSES, "dit", WINDOWS)
    found = ik.remove(TRAJECTORY, LOSSES, ids, scores, parts=parts)
    strength = abs(scores.influence.sel(train=found.train).mean(("query", "window"))).values
    assert (np.diff(strength) <= 0).all() and set(found.train.values.tolist()) == set(ids)
    sizes = found.part.values.tolist()
    assert sizes[-1] == len(ids) and len(sizes) <= parts
    assert all(a == -(-b // 2) for a, b in zip(sizes, sizes[1:], strict=False))
    for size, part in zip(sizes, found.transpose("part", ...).part.values, strict=True):
        alone = ik.remove(TRAJECTORY, LOSSES, found.train.values[:size], scores, parts=1)
        np.testing.assert_allclose(found.part_estimate.sel(part=part), alone.estimate, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(
            found.part_retrained.sel(part=part), alone.retrained, rtol=1e-9, atol=1e-13
        )
    np.testing.assert_array_equal(found.part_retrained[..., -1], found.retrained)


def test_a_set_is_retrained_alike_in_one_batch_and_one_by_one():
    """Convolutions are retrained in a loop on the CPU, in a batch elsewhere."""
    trajectory = ik.record(conv_workload())
    ids = list(range(5))
    batched = ik.remove(trajectory, ids=ids)
    with traced():
        looped = ik.remove(ik.record(conv_workload()), ids=ids)
    close(batched.part_retrained, looped.part_retrained)
    xr.testing.assert_allclose(batched.accuracy_after, looped.accuracy_after)


@pytest.mark.parametrize(
    ("sizes", "estimate", "retrained", "words"),
    [
        ([25, 50, 100], [-0.04, -0.07, -0.128], [-0.03, 0.001, 0.019], "wrong sign from 50 examples on"),
        ([25, 50, 100], [-0.04, -0.07, -0.128], [0.03, 0.01, 0.019], "wrong sign from 25 examples on"),
        ([25, 50, 100], [-0.04, -0.07, -0.1], [-0.04, -0.07, 0.019], "wrong sign from 100 examples on"),
        ([3], [1.0], [-1.0], "the sum has the wrong sign"),
        ([2, 4], [1.0, 2.0], [-1.0, 4.0], "wrong sign for 2 examples; of all 4 it is 0.5 times"),
        ([1, 2, 4], [1.0, 2.0, 4.0], [0.95, 2.0, 3.9], "holds to within 6 % for 1, 2 and all 4 examples"),
        ([1], [1.0], [1.1], "holds to within 10 % for this example"),
        ([2, 4], [1.0, 4.0], [1.1, 2.0], "within 10 % up to 2 examples; of all 4 it is 2 times"),
        ([2, 4], [3.0, 4.0], [1.0, 2.0], "the sum is 2 times what retraining shows"),
        ([2, 4], [0.0, 0.0], [0.0, 0.0], "removing them changes nothing"),
        ([2, 4], [1.0, np.nan], [1.0, 1.0], "some of its examples were not scored"),
        ([2, 4], [1.0, 2.0], [np.inf, 2.0], "holds to within 1 % for all 4 examples"),
    ],
)  # fmt: skip
def test_the_verdict_says_how_far_a_sum_holds(sizes, estimate, retrained, words):
    assert words in verdict(sizes, np.array(estimate), np.array(retrained))


def test_the_verdict_is_of_the_window_that_is_furthest_off():
    """And is what the numbers of the result say, of the mean over queries."""
    found = ik.remove(TRAJECTORY, LOSSES, [12, 3, 41], "dit", windows=WINDOWS)
    mean = found.mean("query")
    off = abs(mean.estimate - mean.retrained) / abs(mean.retrained)
    worst = int(off.values.argmax())
    said = verdict(found.part.values, *(mean[f"part_{n}"].values[worst] for n in ("estimate", "retrained")))
    assert found.attrs["verdict"] == f"in window {WINDOWS[worst]}, the worst of 4: {said}"
    one = ik.remove(TRAJECTORY, LOSSES, [12, 3, 41], "dit", windows=[WINDOWS[worst]])
    assert one.attrs["verdict"] == said


def test_a_sum_over_a_set_that_saturates_is_not_believed():
    """Copies of one example: each alone changes little, since the others stay; the sum misses what all do."""
    x = torch.tensor([[1.0]] * 6 + [[-1.0]] * 2).double()
    workload = ik.Workload(
        model=torch.nn.Linear(1, 1).double(), loss=lambda out, sign: -logsigmoid(out[:, 0] * sign),
        train=(x, x[:, 0]), test=(x, x[:, 0]), optimizer=SGD(lr=3.0), epochs=60, batch_size=8,
    )  # fmt: skip
    found = ik.remove(ik.record(workload), ids=range(6))
    assert abs(found.retrained.item()) > 1.5 * abs(found.estimate.item())
    assert "times" in found.attrs["verdict"] or "wrong sign" in found.attrs["verdict"]
    with pytest.raises(InputError, match="parts must be at least 1, got 0"):
        ik.remove(ik.record(workload), ids=range(6), parts=0)


def test_accuracy_without_the_set_is_that_of_a_batch_norm_model_with_statistics_of_its_own():
    """Beside a plain torch loop in which the set's terms of the loss are left out."""
    draw = torch.Generator().manual_seed(1)
    x, xt = (torch.randn(n, 3, generator=draw, dtype=torch.float64) for n in (24, 40))
    y, yt = (x[:, 0] > 0).long(), (xt[:, 0] + 0.3 * xt[:, 1] > 0).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).double()
    loss = nn.CrossEntropyLoss(reduction="none")
    trajectory = ik.record(ik.Workload(
        model=model, loss=loss, train=(x, y), test=(xt, yt), optimizer=SGD(lr=0.3), epochs=4, batch_size=8,
    ))  # fmt: skip
    found = ik.remove(trajectory, ids=range(10))
    plain = deepcopy(model).train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.3)
    for t in range(trajectory.steps):
        rows = trajectory.plan.batch(t)
        optimizer.zero_grad()
        ((loss(plain(x[rows]), y[rows]) * (rows >= 10)).sum() / len(rows)).backward()
        optimizer.step()
    outputs = plain.eval()(xt)
    assert found.after.item() == pytest.approx(loss(outputs, yt).mean().item(), rel=1e-9)
    accuracy = (outputs.argmax(1) == yt).double().mean().item()
    assert found.accuracy_after.item() == accuracy != found.accuracy_before.item()
