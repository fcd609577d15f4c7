"""The expected effect: the mean of leave-one-out over runs from moved starts, with its standard error."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import influencekit as ik
from influencekit._trajectory.rerun import moved
from influencekit.errors import InputError
from influencekit.testing import oracle
from influencekit.testing.setting import OPTIMIZERS, queries, recorded

SPEC = "mnist-1v7-dnn:n_train=24:epochs=3:lr=0.05"


@pytest.fixture(scope="module")
def run():
    return ik.record(ik.make("workload", SPEC))


def from_start(workload, theta):
    """The workload with these initial parameters."""
    model = oracle.deepcopy(workload.model)
    model.load_state_dict(workload.layout.split(theta), strict=False)
    return replace(workload, model=model)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_is_the_mean_of_plain_loops_from_moved_starts(optimizer):
    trajectory = recorded(optimizer)
    windows = [ik.Window(0, trajectory.steps), ik.Window(2, 5, "window")]
    starts = [trajectory.state(0).theta, *(moved(trajectory, 0.1, seed).theta for seed in (1, 2))]
    every = torch.stack(
        [oracle.retrained(from_start(trajectory.workload, x), queries(), windows) for x in starts]
    )
    method = ik.make("estimator", "expected-loo:runs=3:moved=0.1")
    found, error = method.scores_and_errors(trajectory, queries(), windows)
    torch.testing.assert_close(found, every.mean(0), rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(error, every.std(0) / 3**0.5, rtol=1e-7, atol=1e-13)
    assert not torch.equal(every[0], every[1]) and optimizer in OPTIMIZERS


def test_it_is_the_mean_that_ceiling_gives(run):
    known = ik.ceiling(run, runs=3, moved=0.05, windows="each-epoch")
    found = ik.estimate(run, "test-loss", "expected-loo:runs=3:moved=0.05", "each-epoch")
    np.testing.assert_allclose(found.influence, known["mean"], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.standard_error, known.standard_error, rtol=1e-6, atol=1e-12)


def test_only_means_over_runs_have_a_standard_error(run):
    assert "standard_error" not in ik.estimate(run, "test-loss", "loo:examples=4")
    found = ik.estimate(run, "test-loss", "expected-loo:runs=2:examples=4:seed=5")
    known = ik.estimate(run, "test-loss", "loo:examples=4:seed=5")
    for name in ("influence", "standard_error"):
        assert (found[name].notnull() == known.influence.notnull()).all()
    assert found.attrs["note_runs"] == 2 and found.attrs["note_retrained"] == 4


def test_it_is_a_reference(run):
    found = ik.compare(run, ["dit", "loo"], "expected-loo:runs=3:moved=0.05")
    assert found.attrs["reference"] == "expected-loo:runs=3:moved=0.05"
    assert found.agreement.sel(estimator="loo", metric="spearman").item() > 0.5


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("expected-loo:runs=1", "runs must be at least 2"),
        ("expected-loo:moved=0", "moved must be above 0"),
        ("expected-loo:examples=1", "at least 2"),
        ("expected-loo:strategy=both", "strategy"),
    ],
)
def test_options_that_mean_nothing_are_refused(spec, said):
    with pytest.raises(InputError, match=said):
        ik.make("estimator", spec)
