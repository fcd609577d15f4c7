"""A run trained again on its own plan: from a moved start, or with other weights on its examples."""

import pytest
import torch
from helpers_contents import examples, taped
from torch.utils.data import TensorDataset

import influencekit as ik
from influencekit._effects.retrain import Weighting, retrained
from influencekit._trajectory.rerun import moved, rerun, weighted_runs
from influencekit.errors import InputError

OPTIMIZERS = {
    "sgd": ik.SGD(lr=0.1),
    "momentum": ik.SGD(lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": ik.AdamW(lr=0.01),
}


@pytest.fixture(scope="module", params=list(OPTIMIZERS))
def run(request):
    work = ik.make("workload", "mnist-1v7-dnn:n_train=24:epochs=3")
    return ik.record(ik.Workload(**{**_fields(work), "optimizer": OPTIMIZERS[request.param]}), "every-k:k=2")


def _fields(work):
    names = ("model", "loss", "train", "test", "batch_size", "epochs", "seed", "l2")
    return {name: getattr(work, name) for name in names}


def test_the_same_run_comes_out_bit_for_bit(run):
    again = rerun(run)
    for t in range(run.steps + 1):
        assert torch.equal(again.state(t).theta, run.state(t).theta)
    assert again.attrs["accuracy"] == run.attrs["accuracy"]


def test_a_weight_on_all_examples_is_what_retraining_makes_of_it(run):
    everyone = torch.arange(run.workload.n_train)
    other = rerun(run, 0.5)
    (models,) = retrained(run, [Weighting(everyone, 0.5)], (0, run.steps), [run.steps], "loop")
    torch.testing.assert_close(other.final.theta, models.theta[0], rtol=1e-5, atol=1e-7)


def test_a_weight_may_hold_in_some_steps_only(run):
    weight = torch.ones(run.steps)
    weight[1:] = 0.5
    other = rerun(run, weight)
    assert torch.equal(other.state(1).theta, run.state(1).theta)
    assert not torch.equal(other.final.theta, run.final.theta)


def test_weights_of_single_examples_are_what_retraining_makes_of_them(run):
    weights = torch.linspace(0, 2, run.workload.n_train)
    (other,) = weighted_runs(run, weights[None])
    everyone = torch.arange(run.workload.n_train)
    (models,) = retrained(run, [Weighting(everyone, weights)], (0, run.steps), [run.steps], "loop")
    torch.testing.assert_close(other.final.theta, models.theta[0], rtol=1e-5, atol=1e-7)
    halves = rerun(run, 0.5, examples=weights)
    torch.testing.assert_close(halves.step.coefficients(0), 0.5 * other.step.coefficients(0))


def test_runs_with_the_same_weights_are_trained_once(run):
    weights = torch.ones(2, run.workload.n_train)
    weights[1, 3] = 0
    first, again = weighted_runs(run, weights), weighted_runs(run, weights.clone())
    assert all(a is b for a, b in zip(first, again, strict=True))
    assert torch.equal(first[0].final.theta, run.final.theta)
    assert not torch.equal(first[1].final.theta, run.final.theta)


def test_weights_of_another_shape_are_refused(run):
    for weights in (torch.ones(3), torch.ones(2, 5), torch.ones(0, 24), torch.full((1, 24), torch.nan)):
        with pytest.raises(InputError, match="one row of 24 a run"):
            weighted_runs(run, weights)


def test_a_moved_start_is_as_far_aside_as_was_said(run):
    start, state = run.state(0), moved(run, 1e-3, 3)
    assert torch.equal(state.theta, moved(run, 1e-3, 3).theta)
    layout = run.workload.layout
    for there, here in zip(
        layout.split(state.theta).values(), layout.split(start.theta).values(), strict=True
    ):
        rms = (here if here.any() else start.theta).square().mean().sqrt()
        size = (there - here).square().mean().sqrt() / rms
        assert 0.3e-3 < size < 3e-3
    other = rerun(run, start=state)
    assert torch.equal(other.state(0).theta, state.theta)
    assert torch.equal(run.state(0).theta, start.theta)


def test_leave_one_out_of_a_moved_run_starts_from_its_own_start(run):
    other = rerun(run, start=moved(run, 1e-2, 0))
    effect = ik.estimate(other, "test-loss", "loo:strategy=loop").influence.values[0, 0, 5]
    state = other.step.start()
    weights = torch.ones(run.workload.n_train)
    weights[5] = 0
    for t in range(run.steps):
        state = run.step.advance_with(state, run.step.coefficients(t, weights))[0]
    query = ik.make("query", "test-loss")
    with torch.no_grad():
        hand = query.evaluate(run.workload, state.theta) - query.evaluate(run.workload, other.final.theta)
    assert effect == pytest.approx(hand.item(), rel=1e-4, abs=1e-7)


def test_a_taped_run_runs_again_from_its_own_first_state(tmp_path):
    x, y = examples()
    run = taped(tmp_path / "run", TensorDataset(x, y)).trajectory(test=(x[:20], y[:20]))
    again, aside = rerun(run), rerun(run, start=moved(run, 1e-3, 0))
    torch.testing.assert_close(again.final.theta, run.final.theta)
    assert not torch.equal(aside.final.theta, again.final.theta)
    assert ik.estimate(aside).influence.shape == (1, 1, len(x))


def test_a_fraction_that_moves_nothing_is_refused(run):
    with pytest.raises(InputError, match="moved"):
        moved(run, 0.0, 0)
