"""Verbs give the numbers of a run, whatever modes of torch surround the call."""

import numpy as np
import pytest
import torch

import influencekit as ik

MODES = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
}


@pytest.fixture(scope="module")
def workload():
    return ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2")


@pytest.mark.parametrize("estimator", ["dit", "loo", "if", "sgd-influence"])
@pytest.mark.parametrize("mode", MODES)
def test_a_mode_around_a_verb_changes_nothing(workload, mode, estimator):
    run = ik.record(workload)
    expected = ik.estimate(run, "test-loss", estimator).influence.values
    with MODES[mode]():
        before = torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        found = ik.estimate(run, "test-loss", estimator).influence.values
        again = ik.record(workload)
        ik.verify(again)
        after = torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    assert np.array_equal(found, expected) and after == before
    assert torch.equal(again.final.theta, run.final.theta)


@pytest.mark.parametrize("mode", MODES)
def test_nor_does_one_around_a_state_that_is_replayed_first(mode):
    """Also later: kernels are traced when they are used first."""
    workload = ik.make("workload", "mnist-1v7-cnn:n_train=24:epochs=3")
    expected = ik.record(workload)
    run = ik.record(workload, "every-k:k=50")
    with MODES[mode]():
        inside = [run.state(t).theta for t in range(run.steps)]
    outside = [run.state(t).theta for t in range(run.steps)]
    for t, (a, b) in enumerate(zip(inside, outside, strict=True)):
        assert torch.equal(a, b) and torch.equal(a, expected.state(t).theta)
    assert np.array_equal(ik.estimate(run).influence.values, ik.estimate(expected).influence.values)


def test_a_state_that_was_handed_out_may_be_changed(workload):
    run = ik.record(workload)
    expected = ik.estimate(run).influence.values
    run.final.theta.mul_(0)
    run.evaluated(run.steps).theta.mul_(0)
    assert np.array_equal(ik.estimate(run).influence.values, expected)
