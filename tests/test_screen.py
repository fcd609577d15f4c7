"""Screening and sets: beside the truth of plain PyTorch retraining without the examples."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from helpers_step import conv_workload, quick, traced  # noqa: F401 (a fixture)
from hypothesis import given, settings
from hypothesis import strategies as st
from test_optimizers import adams, sgds

import influencekit as ik
from influencekit import SGD, AdamW, DivergedError, InputError, Window
from influencekit._effects.retrain import Weighting
from influencekit._training.batch import select
from influencekit.estimators.loo import retraining_effects
from influencekit.testing.oracle import (
    quadratic_workload,
    retrained,
    tiny_workload,
    torch_optimizer,
    weighted_run,
    window_weights,
)

pytestmark = pytest.mark.usefixtures("quick")
LOSSES = ik.make("query", "test-losses")
WINDOWS = [Window(0, 6), Window(2, 5), Window(1, 3, "window"), Window(3, 4, "occurrence")]


def plain(workload, gone, absent):
    """theta of every state, by torch.optim and backward, without positions `gone` in steps `absent`."""
    model, plan = deepcopy(workload.model), workload.plan
    optimizer = torch_optimizer(workload, model)
    states = [workload.layout.join(dict(model.named_parameters()))]
    for t in range(plan.steps):
        rows = plan.batch(t)
        here = [int(i) for i in rows if not (absent[0] <= t < absent[1] and int(i) in gone)]
        for group, lr in zip(optimizer.param_groups, plan.lrs(t), strict=True):
            group["lr"] = lr
        optimizer.zero_grad()
        x, y = select(workload.train, torch.tensor(here, dtype=torch.int64))
        penalty = sum(p.square().sum() for p in model.parameters())
        ((workload.loss(model(x), y) + 0.5 * workload.l2 * penalty).sum() / len(rows)).backward()
        if workload.optimizer.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), workload.optimizer.clip_norm)
        optimizer.step()
        states.append(workload.layout.join(dict(model.named_parameters())))
    return states


def effect(workload, query, window, gone):
    base, run = plain(workload, (), (0, 0)), plain(workload, gone, window.absent())
    total = 0
    for t, sign in window.evaluations(workload.plan.steps).items():
        at = query.at(workload, base[t])
        total = total + sign * (at(run[t]) - at(base[t]))
    return total.detach()


def close(found, expected, tolerance=1e-10):
    """Sums of a few hundred float64 terms round at 1e-14 of the largest; 1e-10 leaves room, and no more."""
    found, expected = torch.as_tensor(np.asarray(found)), torch.as_tensor(np.asarray(expected))
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=tolerance)


# the retraining of any weights --------------------------------------------------------------------


@settings(max_examples=5)
@given(st.data())
@pytest.mark.parametrize("strategy", ["batch", "loop"])
def test_any_weights_are_what_a_plain_weighted_loop_trains(strategy, data):
    """A run for each weighting, with whole batches of runs or one by one, over every meaning of removal."""
    workload = tiny_workload(SGD(lr=0.2, momentum=0.5, weight_decay=0.05))
    number = st.floats(-1, 2)
    weights = torch.tensor(
        data.draw(st.lists(st.lists(number, min_size=8, max_size=8), min_size=1, max_size=3))
    )
    weights = weights.double()
    runs = [Weighting(torch.arange(8), row) for row in weights]
    found = retraining_effects(ik.record(workload), LOSSES, runs, WINDOWS, strategy)
    base = [theta.detach() for theta in weighted_run(workload, torch.ones(6, 8).double())]
    for k, window in enumerate(WINDOWS):
        for m, row in enumerate(weights):
            thetas = weighted_run(workload, window_weights(workload, window, 1 - row))
            expected = sum(
                sign * (LOSSES.at(workload, base[t])(thetas[t]) - LOSSES.at(workload, base[t])(base[t]))
                for t, sign in window.evaluations(6).items()
            )
            torch.testing.assert_close(found[:, k, m], expected.detach(), rtol=1e-9, atol=1e-12)


# sets ---------------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(st.one_of(sgds(), adams()), st.sets(st.integers(0, 7), min_size=1, max_size=6), st.integers(0, 3))
def test_removing_a_set_equals_plain_retraining_without_it(optimizer, gone, seed):
    optimizer = replace(optimizer, lr=min(optimizer.lr, 0.1))
    workload = tiny_workload(optimizer, seed=seed)
    ids = [workload.train_ids[i] for i in gone]
    found = ik.remove(ik.record(workload), LOSSES, ids, windows=WINDOWS[1:3])
    expected = torch.stack([effect(workload, LOSSES, w, gone) for w in WINDOWS[1:3]], 1)
    if expected.abs().max() == 0:  # the example that no batch holds
        assert not found.retrained.values.any()
        return
    # Adam's first step divides by gradients as small as they come: rounding grows to 1e-9 at eps 1e-8
    close(found.retrained, expected, 1e-10 if isinstance(optimizer, SGD) else 1e-7)


def test_before_and_after_are_the_values_of_the_two_trained_models():
    workload = tiny_workload(AdamW(lr=0.05))
    gone = (0, 2, 7)
    found = ik.remove(ik.record(workload), "test-loss", [workload.train_ids[i] for i in gone])
    for name, theta in (
        ("before", plain(workload, (), (0, 0))[-1]), ("after", plain(workload, gone, (0, 6))[-1])
    ):  # fmt: skip
        assert found[name].item() == pytest.approx(workload.losses(theta, workload.test).mean().item())
        assert found[f"accuracy_{name}"].item() == workload.accuracy(theta)
    assert found.retrained.item() == pytest.approx((found.after - found.before).item())


def test_a_step_without_any_of_its_examples_still_decays_the_weights():
    """The divisor stays and the loss gradient is zero; momentum and weight decay go on, as in torch."""
    for optimizer in (SGD(lr=0.1, momentum=0.5, weight_decay=0.3), AdamW(lr=0.05, weight_decay=0.3)):
        workload = tiny_workload(optimizer)
        emptied = set(workload.plan.batch(1).tolist())
        found = ik.remove(ik.record(workload), LOSSES, [workload.train_ids[i] for i in emptied])
        close(found.retrained[:, 0], effect(workload, LOSSES, Window(0, 6), emptied), 1e-9)


def test_the_prediction_of_a_set_is_the_sum_of_the_scores_of_its_examples():
    trajectory = ik.record(tiny_workload(AdamW(lr=0.05)))
    ids = [3, 41, 8]
    for estimator in ("dit", "loo", ik.estimate(trajectory, LOSSES, "dit")):
        found = ik.remove(trajectory, LOSSES, ids, estimator)
        scores = (
            estimator if isinstance(estimator, xr.Dataset) else ik.estimate(trajectory, LOSSES, estimator)
        )
        np.testing.assert_allclose(found.estimate, scores.influence.sel(train=ids).sum("train"), rtol=1e-12)
        parts = [ik.remove(trajectory, LOSSES, part, estimator).estimate for part in (ids[:1], ids[1:])]
        np.testing.assert_allclose(found.estimate, parts[0] + parts[1], rtol=1e-12)
        assert set(found.train.values.tolist()) == set(ids)


def test_on_a_quadratic_problem_first_order_is_right_for_whole_sets():
    workload, free = quadratic_workload(SGD(lr=0.1, momentum=0.5))
    query = ik.make("query", "parameter:name=weight:index=0+1")
    found = ik.remove(ik.record(workload), query, free)
    assert found.estimate.item() == pytest.approx(found.retrained.item(), rel=1e-10)


def test_one_removed_example_has_its_leave_one_out_effect():
    trajectory = ik.record(tiny_workload(AdamW(lr=0.05)))
    loo = ik.estimate(trajectory, LOSSES, "loo", WINDOWS).influence
    scores = ik.estimate(trajectory, LOSSES, "dit", WINDOWS)
    for name in trajectory.workload.train_ids:
        found = ik.remove(trajectory, LOSSES, [name], scores)
        np.testing.assert_allclose(found.retrained, loo.sel(train=name), rtol=1e-9, atol=1e-13)


@settings(max_examples=5)
@given(st.permutations([12, 3, 41, 17]), st.sampled_from([12, 3, 41, 17]))
def test_order_and_repetition_of_ids_change_nothing(ids, twice):
    trajectory = TRAJECTORY
    scores = ik.estimate(trajectory)
    one, other = (
        ik.remove(trajectory, "test-loss", each, scores) for each in ([*ids, twice], [12, 3, 41, 17])
    )
    xr.testing.assert_identical(one, other)


def test_ids_may_be_written_as_text():
    xr.testing.assert_identical(
        ik.remove(TRAJECTORY, LOSSES, ["12", "3"]), ik.remove(TRAJECTORY, LOSSES, np.array([12, 3]))
    )


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ((), "expected at least one id"),
        ((12, 99), "no training example '99'; there are 8, '12' to '8'"),
        (("12", "411"), "did you mean '41'"),
        ((12, 3, 7, 20, 5, 41, 17, 8), "leave some of them in"),
        ((12, 3, 7, 20, 41, 17, 8), "leave some of them in"),  # the eighth is in no batch
        ("12", "expected a list"),
    ],
)
def test_sets_that_cannot_be_removed(ids, words):
    with pytest.raises(InputError, match=words):
        ik.remove(TRAJECTORY, LOSSES, ids)


def test_a_removal_that_diverges_says_so():
    x, h = torch.ones(4), torch.tensor([-1.0, -1.0, 1.3, 1.3])
    workload = ik.Workload(
        model=torch.nn.Linear(1, 1, bias=False), loss=lambda o, h: 10 * h * o[:, 0].square(),
        train=(x[:, None], h), test=(x[:, None], h), optimizer=SGD(lr=0.1), epochs=120, batch_size=4,
    )  # fmt: skip
    with pytest.raises(DivergedError, match="retraining without 2 examples gave NaN or infinity"):
        ik.remove(ik.record(workload), ids=[2, 3])


# the most harmful and the most helpful ------------------------------------------------------------


@pytest.mark.parametrize("which", ["harmful", "helpful"])
def test_the_truth_beside_the_estimate_is_leave_one_out(which):
    workload = tiny_workload(SGD(lr=0.2, momentum=0.5))
    trajectory = ik.record(workload)
    found = ik.verify_top(trajectory, "test-loss", "dit", top=3, which=which)
    scores = ik.estimate(trajectory).influence
    order = scores.sortby(scores.squeeze(), ascending=which == "harmful").train.values[:3]
    assert found.train.values.tolist() == order.tolist()
    np.testing.assert_array_equal(found.estimate, scores.sel(train=order))
    positions = [workload.train_ids.index(i) for i in order.tolist()]
    truth = retrained(workload, ik.make("query", "test-loss"), [Window(0, 6)], positions)
    close(found.retrained, truth)
    close(found.after, truth + found.before.item())
    assert found.before.item() == pytest.approx(
        workload.losses(trajectory.final.theta, workload.test).mean().item()
    )
    signs = np.sign(found.estimate) == np.sign(found.retrained)
    assert found.same_sign.item() == signs.mean().item()


def test_several_queries_and_windows_are_ranked_by_their_mean_and_verified_each():
    found = ik.verify_top(TRAJECTORY, LOSSES, "dit", top=4, windows=WINDOWS)
    scores = ik.estimate(TRAJECTORY, LOSSES, "dit", WINDOWS)
    mean = scores.influence.mean(("query", "window"))
    assert found.train.values.tolist() == mean.sortby(mean).train.values[:4].tolist()
    loo = ik.estimate(TRAJECTORY, LOSSES, "loo", WINDOWS).influence
    close(found.retrained, loo.sel(train=found.train))
    assert found.sizes == {"query": 5, "window": 4, "train": 4, "metric": 4}
    ready = ik.verify_top(TRAJECTORY, LOSSES, scores, top=4)
    xr.testing.assert_allclose(ready, found)


def test_batches_of_models_and_loops_verify_alike():
    trajectory = ik.record(conv_workload())
    one, other = (ik.verify_top(trajectory, top=5, strategy=s) for s in ("batch", "loop"))
    close(one.retrained, other.retrained)
    with traced():
        found = ik.verify_top(ik.record(conv_workload()), top=1)
    assert one.attrs["strategy"] == "batch" and found.attrs["strategy"] == "loop"


def test_more_than_there_are_is_all_and_one_has_no_agreement():
    assert ik.verify_top(TRAJECTORY, top=99).sizes["train"] == 8
    assert ik.verify_top(TRAJECTORY, top=1).agreement.isnull().all()
    some = ik.verify_top(TRAJECTORY, "test-loss", "loo:examples=3", top=20)
    assert some.sizes["train"] == 3 and some.agreement.sel(metric="pearson").item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"top": 0}, "top must be at least 1"),
        ({"which": "odd"}, "which must be one of harmful, helpful, raises, lowers or none, got 'odd'"),
        ({"estimator": "ditt"}, "did you mean 'dit'"),
        ({"windows": "step:4-9"}, "outside the run"),
    ],
)
def test_impossible_requests_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        ik.verify_top(TRAJECTORY, **arguments)


def test_scores_of_another_run_or_query_are_refused():
    scores = ik.estimate(ik.record(tiny_workload(seed=1)))
    for query, other in (
        ("test-losses", ik.estimate(TRAJECTORY)),
        ("test-loss", scores.assign_attrs(seed=7)),
    ):
        with pytest.raises(InputError, match="not of this run and query"):
            ik.verify_top(TRAJECTORY, query, other)
    with pytest.raises(InputError, match="bring their own windows"):
        ik.verify_top(TRAJECTORY, "test-loss", ik.estimate(TRAJECTORY), windows="full")


@pytest.mark.parametrize("change", ["epochs", "l2", "shuffle", "optimizer", "model", "test", "loss"])
def test_scores_of_another_run_are_refused_and_of_the_same_again_are_not(change, tmp_path):
    work = ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2")
    weights = deepcopy(work.model)
    with torch.no_grad():
        next(weights.parameters()).add_(0.1)
    changed = {
        "epochs": 3, "l2": 0.3, "shuffle": False, "optimizer": SGD(lr=0.3), "model": weights,
        "test": select(work.test, torch.arange(9)), "loss": lambda *a: 2 * work.loss(*a),
    }  # fmt: skip
    ik.record(work, store=tmp_path / "run.zarr")
    run, again = ik.open(tmp_path / "run.zarr", work), ik.record(work, "every-k:k=2")
    ids = {"test_ids": None} if change == "test" else {}
    other = ik.record(replace(work, **{change: changed[change]}, **ids))
    scores = ik.compare(other, ["dit"]).sel(estimator=["dit"]).isel(seed=0)
    calls = [partial(verb, run, "test-loss") for verb in (ik.verify_top, ik.trust)]
    for call in [*calls, partial(ik.remove, run, "test-loss", [run.workload.train_ids[0]])]:
        with pytest.raises(InputError, match="scores of another run: this one (starts|ends|has)") as error:
            call(ik.estimate(other))
        assert "\n" not in str(error.value)
        with pytest.raises(InputError, match="scores of another run"):
            ik.evaluate(run, "lds:m=4", scores=scores)
    found = ik.estimate(again)
    found.to_netcdf(tmp_path / "scores.nc")
    found = xr.open_dataset(tmp_path / "scores.nc")
    assert found.run == ik.estimate(run).run == ik.compare(run, ["dit"]).run.item()
    assert ik.verify_top(run, "test-loss", found, top=2).run == found.run
    del found.attrs["run"]  # of before 0.4
    ik.verify_top(run, "test-loss", found, top=2)


def test_scores_of_a_part_of_the_run_or_without_a_test_set_are_of_the_run():
    work = tiny_workload()
    run, part = ik.record(work), ik.record(work, window=(2, 5))
    window, query = [Window(2, 4, "window")], "parameter:index=3"
    ik.verify_top(run, "test-loss", ik.estimate(part, windows=window), top=2)
    untested = ik.record(replace(work, test=select(work.test, torch.arange(2)), test_ids=None))
    assert ik.estimate(untested, query).run == ik.estimate(run, query).run
    with pytest.raises(InputError, match="another test set"):
        ik.verify_top(run, "test-loss", ik.estimate(untested))
    with pytest.raises(InputError, match="scores of another run: their run is 3"):
        ik.verify_top(run, "test-loss", ik.estimate(run).assign_attrs(run=3))


def test_nothing_is_changed_by_asking():
    before = TRAJECTORY.workload.theta0.clone(), torch.get_rng_state(), torch.is_grad_enabled()
    ik.verify_top(TRAJECTORY, top=2)
    ik.remove(TRAJECTORY, ids=[12])
    assert torch.equal(before[0], TRAJECTORY.workload.theta0) and torch.equal(
        before[1], torch.get_rng_state()
    )
    assert torch.is_grad_enabled() == before[2]


TRAJECTORY = ik.record(tiny_workload(SGD(lr=0.2, momentum=0.5)))
