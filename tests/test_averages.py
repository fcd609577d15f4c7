"""Queries on averages of states: truth is a loop in PyTorch that keeps a model of `torch.optim.swa_utils`."""

import json
from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from helpers_cli import TINY, fails
from helpers_cli import run as command
from helpers_stores import changed
from helpers_tape import N, held_out, order, per_example, sample
from hypothesis import given
from hypothesis import strategies as st
from test_tape_laws import derivative
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import influencekit as ik
from influencekit._verbs.averaging import averaged

STEPS = 9  # three epochs of three batches
WINDOWS = [ik.Window(0, STEPS), ik.Window(2, 5, "occurrence"), ik.Window(4, STEPS, "window")]


def network(batch_norm):
    """A tanh network in float64, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        middle = nn.BatchNorm1d(5) if batch_norm else nn.Identity()
        return nn.Sequential(nn.Linear(4, 5), middle, nn.Tanh(), nn.Linear(5, 3)).double()


class FromTheStart:
    """An average that people write by hand: it begins as the initial model, and its decay warms up."""

    def __init__(self, model):
        self.module, self.n = deepcopy(model), 0

    def update_parameters(self, model):
        decay = min(0.7, (1 + self.n) / (10 + self.n))
        with torch.no_grad():
            for mine, new in zip(self.module.parameters(), model.parameters(), strict=True):
                mine.mul_(decay).add_(new, alpha=1 - decay)
        self.n += 1


class Copy(FromTheStart):
    """The best model, kept."""

    def update_parameters(self, model):
        self.module = deepcopy(model)


def ema(decay, **more):
    return lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), **more)


AVERAGES = {  # spec: (what the loop keeps, whether it is updated after this step of this epoch, the last one)
    "ema:decay=0.8": (ema(0.8), lambda step, epoch, last: True),
    "ema:decay=0.6:every=2:start=1": (ema(0.6), lambda step, epoch, last: step % 2 == 1),
    "ema:decay=0.7:initial=true:warmup=true": (FromTheStart, lambda step, epoch, last: True),
    "ema:decay=0.5:by=epoch": (ema(0.5), lambda step, epoch, last: last),
    "swa:start=1": (AveragedModel, lambda step, epoch, last: last and epoch >= 1),
    "swa:start=2:every=3:by=step": (AveragedModel, lambda step, epoch, last: step in (2, 5, 8)),
    "after:epoch=1": (Copy, lambda step, epoch, last: last and epoch == 1),
}
STATISTICS = {  # the same with batch norm, whose statistics are averaged or those of the last update
    "ema:decay=0.8:use_buffers=true": (ema(0.8, use_buffers=True), lambda step, epoch, last: True),
    "ema:decay=0.6:every=2:start=1": AVERAGES["ema:decay=0.6:every=2:start=1"],
    "after:epoch=1": AVERAGES["after:epoch=1"],
}
OPTIMIZERS = {
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9), lambda: ik.SGD(lr=0.3, momentum=0.9)),
    "adam": (lambda p: torch.optim.Adam(p, lr=0.05), lambda: ik.Adam(lr=0.05)),
}


def loop(spec, optimizer, weights=None, batch_norm=False):
    """The test losses of the averaged model, its states in theta, trained with weights(step) [N]."""
    make, updates = (STATISTICS if batch_norm else AVERAGES)[spec]
    model, (x, y) = network(batch_norm), sample()
    rule, kept, step = OPTIMIZERS[optimizer][0](model.parameters()), make(model), 0
    for epoch, batches in enumerate(order()):
        for k, rows in enumerate(batches):
            rule.zero_grad()
            w = 1.0 if weights is None else weights(step)[rows]
            (w * per_example(model(x[rows]), y[rows])).mean().backward()
            rule.step()
            if updates(step, epoch, k == len(batches) - 1):
                kept.update_parameters(model)
            step += 1
    inputs, target = held_out()
    with torch.no_grad():
        outputs = kept.module.eval()(inputs)
    return per_example(outputs, target), (outputs.argmax(1) == target).double().mean().item()


@cache
def recorded(optimizer, batch_norm=False, recorder="full"):
    batches = torch.tensor([rows for epoch in order() for rows in epoch])
    work = ik.Workload(
        model=network(batch_norm), loss=per_example, train=sample(), test=held_out(), order=batches,
        optimizer=OPTIMIZERS[optimizer][1](), epochs=3,
    )  # fmt: skip
    return ik.record(work, recorder)


@cache
def taped(optimizer, batch_norm=False):
    model, (x, y) = network(batch_norm), sample()
    rule, data = OPTIMIZERS[optimizer][0](model.parameters()), torch.utils.data.TensorDataset(x, y)
    with ik.Tape(None, model, rule, loss=per_example, data=data, recorder="every-k:k=4") as tape:
        for batches in order():
            for _, (inputs, target) in tape.batches(torch.utils.data.DataLoader(data, batch_sampler=batches)):
                rule.zero_grad()
                per_example(model(inputs), target).mean().backward()
                rule.step()
    return tape.trajectory(test=held_out())


def check(run, spec, optimizer, batch_norm=False):
    """dit, loo by both strategies, and the accuracy of a run against the loop."""
    d = torch.randn(N, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    found = ik.estimate(run, "test-losses", "dit", WINDOWS, average=spec)
    full, accuracy = loop(spec, optimizer, batch_norm=batch_norm)
    assert (found.attrs["average"], found.attrs["accuracy"]) == (spec, pytest.approx(accuracy))
    names = ("loo:strategy=loop",) if batch_norm else ("loo", "loo:strategy=loop")
    exact = [ik.estimate(run, "test-losses", name, WINDOWS, average=spec).influence.values for name in names]
    for k, window in enumerate(WINDOWS):

        def weights(change, window=window):
            start, stop = window.absent()
            return lambda step: 1 - change * (start <= step < stop)

        slope = derivative(lambda h, w=weights: loop(spec, optimizer, w(h * d), batch_norm)[0], 1e-4)
        np.testing.assert_allclose(found.influence.values[:, k] @ d.numpy(), slope, rtol=1e-5, atol=1e-9)
        for j in range(0, N, 3):
            one = torch.zeros(N, dtype=torch.float64).index_fill_(0, torch.tensor(j), 1.0)
            truth = loop(spec, optimizer, weights(one), batch_norm)[0] - full
            for each in exact:
                np.testing.assert_allclose(each[:, k, j], truth, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("spec", AVERAGES)
def test_scores_on_an_average_are_those_of_the_loop_that_keeps_it(spec, optimizer):
    """dit to 1e-5 of central differences, loo to 1e-9; recorded, and taped with a recorder that replays."""
    check(recorded(optimizer), spec, optimizer)
    if optimizer == "sgd":
        check(taped(optimizer), spec, optimizer)


@pytest.mark.parametrize("spec", STATISTICS)
def test_statistics_are_those_of_the_averaged_model(spec):
    check(recorded("sgd", True), spec, "sgd", True)
    check(taped("sgd", True), spec, "sgd", True)


def test_single_precision_loo_is_the_loop_to_its_digits():
    """The average is added up in float64 on both sides, so that its rounding does not drown the effect."""
    work = recorded("sgd").workload.to(dtype=torch.float32)
    found = ik.estimate(ik.record(work), "test-losses", "loo", average="ema:decay=0.8").influence.values
    truth = ik.estimate(recorded("sgd"), "test-losses", "loo", average="ema:decay=0.8").influence.values
    np.testing.assert_allclose(found, truth, rtol=1e-3, atol=1e-6)


weightings = st.lists(st.floats(-1, 1), min_size=STEPS + 1, max_size=STEPS + 1).filter(
    lambda w: abs(sum(w)) > 0.1
)


@given(weightings, weightings, st.sampled_from(["dit", "loo", "tsloo"]))
def test_a_query_linear_in_the_parameters_is_linear_in_the_weights(one, other, name):
    """The effect on <v, sum_t w_t theta_t> is the sum of w_t times the effects at the states."""
    run, query = recorded("sgd"), ik.make("query", "parameter:name=3.weight:index=1+2")
    weights = [np.array(w) / sum(w) for w in (one, other)]

    def scores(w):
        return ik.estimate(run, query, name, WINDOWS, average=w).influence.values

    mixed = scores(0.3 * weights[0] + 0.7 * weights[1])
    expected = 0.3 * scores(weights[0]) + 0.7 * scores(weights[1])
    np.testing.assert_allclose(mixed, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["dit", "loo", "loo:strategy=loop"])
@pytest.mark.parametrize("t", [1, 4, STEPS])
def test_all_weight_on_one_state_is_the_window_that_ends_there(name, t):
    run = recorded("adam")
    alone = ik.estimate(run, "test-losses", name, average={t: 1}).influence
    window = ik.estimate(run, "test-losses", name, [ik.Window(0, t)]).influence
    np.testing.assert_allclose(alone.values, window.values, rtol=1e-12, atol=1e-14)


def test_an_influence_function_is_asked_at_the_average():
    """With weight on one state, it is that of the run that ended there, damping included."""
    run = recorded("sgd")
    shorter = ik.record(ik.Workload(
        model=network(False), loss=per_example, train=sample(), test=held_out(), order=run.plan.indices[:6],
        optimizer=ik.SGD(lr=0.3, momentum=0.9), epochs=2,
    ))  # fmt: skip
    found = ik.estimate(run, "test-losses", "if", average={6: 1})
    expected = ik.estimate(shorter, "test-losses", "if")
    np.testing.assert_allclose(found.influence.values, expected.influence.values, rtol=1e-9)
    assert found.attrs["note_damping"] == pytest.approx(expected.attrs["note_damping"])


def test_every_verb_asks_the_same_average(tmp_path):
    """Each with `average=`, or with scores that say which average they are of."""
    run, spec = recorded("sgd"), "ema:decay=0.8"
    scores = ik.estimate(run, average=spec)
    parts = ik.contributions(run, average=spec)
    stored = ik.contributions(run, average="after:step=3", store=tmp_path / "c.zarr")
    for found, of in ((parts, spec), (stored, "after:step=3")):
        expected = ik.estimate(run, windows=WINDOWS, average=of).influence.values
        summed = ik.sum_over_windows(found, WINDOWS)
        np.testing.assert_allclose(summed.influence.values, expected, rtol=1e-10, atol=1e-12)
        assert found.attrs["average"] == of
    truth = ik.estimate(run, "test-loss", "loo", average=spec)
    for found in (ik.verify_top(run, top=3, average=spec), ik.verify_top(run, estimator=scores, top=3)):
        chosen = truth.influence.sel(train=found.train).values
        np.testing.assert_allclose(found.retrained.values, chosen, rtol=1e-9)
        assert found.before.item() == pytest.approx(loop(spec, "sgd")[0].mean().item())
    for found in (ik.remove(run, ids=[5], average=spec), ik.remove(run, ids=[5], estimator=scores)):
        assert found.retrained.item() == pytest.approx(truth.influence.sel(train=5).item())
        assert found.accuracy_before.item() == pytest.approx(loop(spec, "sgd")[1])
    one, two = ik.trust(run, average=spec, examples=8), ik.trust(run, estimator=scores, examples=8)
    assert one.trust.item() == two.trust.item() != ik.trust(run, examples=8).trust.item()
    known = ik.estimate(run, "test-loss", "loo", average=spec).influence
    found = ik.evaluate(run, "leave-k-out:k=1:groups=3", average=spec)["leave-k-out:k=1:groups=3"]
    effects = found.retrained.values.ravel()
    assert all(np.isclose(e, known.values, rtol=1e-9).any() for e in effects)
    compared = ik.compare(run.workload, ["dit"], average=spec)
    np.testing.assert_allclose(compared.influence.sel(estimator="loo").squeeze(), known.squeeze(), rtol=1e-9)
    assert compared.accuracy.item() == pytest.approx(loop(spec, "sgd")[1])


def test_the_weights_are_those_of_torch_and_sum_to_one():
    run = recorded("sgd")
    for spec in AVERAGES:
        w = ik.make("average", spec).weights(run)
        assert w.shape == (STEPS + 1,) and w.sum().item() == pytest.approx(1, abs=1e-12)
    assert averaged(run, "ema:decay=0").ending is None  # the last state, as without an average
    assert averaged(run, "last").ending is None


REFUSED = {
    "weights that sum to 2": ({"average": {3: 1, 4: 1}}, "must sum to 1, and these to 2"),
    "weights that are not finite": ({"average": {3: float("nan")}}, "state 3 must be a number, got nan"),
    "too few weights": ({"average": [0.5, 0.5]}, "one weight for each of the 10 states"),
    "a state that is not there": ({"average": {12: 1}}, "a state must be from 0 to 9, got 12"),
    "an epoch that is not there": ({"average": "after:epoch=7"}, "the epochs 0 to 2, and no epoch 7"),
    "neither epoch nor step": ({"average": "after"}, "expected one of epoch and step"),
    "an average that never begins": ({"average": "swa:start=3"}, "no epoch 3"),
    "nothing loaded again": ({"average": "reloaded"}, "loaded no earlier weights"),
    "an unknown name": ({"average": "emma"}, "did you mean 'ema'"),
    "a method of checkpoints": ({"average": "swa", "estimator": "tracin"}, "tracin cannot be asked of swa"),
    "a window that ends earlier": (
        {"average": "swa", "windows": "epoch:0", "removal": "window"}, "use occurrence removal"
    ),
    "a window from later on": ({"average": "swa", "windows": "epoch:2"}, "use occurrence removal"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_average_is_refused_in_one_line(case):
    options, words = REFUSED[case]
    with pytest.raises(ik.InputError, match=words) as refused:
        ik.estimate(recorded("sgd"), **options)
    assert "\n" not in str(refused.value)


def test_scores_of_another_average_are_refused():
    run = recorded("sgd")
    for average in ({2: 0.5, 3: 0.5}, "swa"):
        scores = ik.estimate(run, average=average)
        with pytest.raises(ik.InputError, match="average"):
            ik.remove(run, ids=[5], estimator=scores, average="ema")
    own = ik.estimate(run, average={2: 0.5, 3: 0.5})
    with pytest.raises(ik.InputError, match="pass the same average="):
        ik.remove(run, ids=[5], estimator=own)
    assert ik.remove(run, ids=[5], estimator=own, average={2: 0.5, 3: 0.5}).estimate.size == 1


def test_a_loop_that_loaded_earlier_weights_is_asked_of_these(tmp_path):
    """The model at its end is that state, which every result says; earlier windows stay as they are."""
    run = recorded("sgd")
    ik.record(run.workload, store=tmp_path / "run.zarr")
    changed(tmp_path / "run.zarr", reloaded=6)  # what a tape writes
    again = ik.open(tmp_path / "run.zarr", run.workload)
    found = ik.estimate(again, windows="each-epoch")
    assert (found.average, found.average_states) == ("reloaded", "state 6 of 9")
    whole = ik.estimate(again)
    expected = ik.estimate(run, average={6: 1}).influence.values
    np.testing.assert_array_equal(whole.influence.values, expected)
    np.testing.assert_allclose(found.influence.sum("window").values, expected[:, 0], atol=1e-12)
    last = ik.estimate(again, average="last")
    np.testing.assert_array_equal(last.influence.values, ik.estimate(run).influence.values)
    assert last.average == "last" and "average" not in ik.estimate(run).attrs
    with pytest.raises(ik.InputError, match='ask the last state: average="last"'):
        ik.estimate(again, estimator="tracin")


def test_the_command_line_asks_averages(tmp_path):
    store, out = tmp_path / "run.zarr", tmp_path / "scores.nc"
    command("record", TINY, "--store", store)
    shown = command("estimate", store, "--average", "ema:decay=0.5", "--trust", "none", "--out", out).output
    assert "influence on test-loss of ema:decay=0.5 (6 states, 1 to 6)" in shown
    found = xr.open_dataset(out)
    expected = ik.estimate(
        ik.open(store, ik.make("workload", TINY, setting="trained")), average="ema:decay=0.5"
    )
    np.testing.assert_allclose(found.influence.values.ravel(), expected.influence.values.ravel(), rtol=1e-6)
    assert found.attrs["average"] == "ema:decay=0.5"
    again = command("compare", TINY, "--estimators", "dit", "--average", "swa", "--json", "-").output
    assert json.loads(again)["average_states"] == "2 states, 3 to 6"
    assert "did you mean 'swa'" in fails("estimate", store, "--average", "sva", code=2)
