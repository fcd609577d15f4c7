"""TracIn and data Shapley against what they are defined as."""

import itertools
import math

import pytest
import torch
from helpers_baselines import gradients, problem, scores
from hypothesis import given, settings
from hypothesis import strategies as st
from influencekit_baselines import Shapley, TracIn
from torch import nn

import influencekit as ik
from influencekit.testing import OPTIMIZERS, recorded, tiny_workload


def network(**options):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0))
    return ik.record(problem(model=model, l2=0.05, schedule=ik.InverseSqrt(), **options))


def query_gradients(run, t):
    return ik.make("query", "test-losses").gradient(run.workload, run.state(t).theta)


@pytest.mark.parametrize("layers", ["all", "last"])
def test_checkpoints_are_summed_over_epochs_with_slow_gradients(layers):
    run = network()
    kept = slice(-5, None) if layers == "last" else slice(None)
    expected = 0
    for t in (2, 5, 8):
        g = gradients(run.workload, run.state(t + 1).theta)[:, kept]
        expected = expected + run.plan.lr[t, 0] * query_gradients(run, t + 1)[:, kept] @ g.T
    torch.testing.assert_close(scores(run, TracIn(layers))[:, 0], expected)


@pytest.mark.parametrize("layers", ["all", "last"])
def test_every_step_counts_the_examples_of_its_batch(layers):
    run = network()
    kept = slice(-5, None) if layers == "last" else slice(None)
    expected = torch.zeros(8, 12, dtype=torch.float64)
    for t in range(run.steps):
        rows = run.plan.batch(t)
        g = gradients(run.workload, run.state(t).theta)[rows][:, kept]
        expected[:, rows] += run.plan.lr[t, 0] / len(rows) * query_gradients(run, t)[:, kept] @ g.T
    torch.testing.assert_close(scores(run, TracIn(layers, "step"))[:, 0], expected)


def test_a_parameter_has_the_learning_rate_of_its_group():
    groups = (ik.Group(("0.*",), {"lr": 0.05}), ik.Group(("2.bias",), {"lr": 0.0}))
    run = network(optimizer=ik.SGD(lr=0.2, groups=groups))
    factor = torch.tensor([0.25] * 16 + [1.0] * 4 + [0.0], dtype=torch.float64)
    expected = 0
    for t in (2, 5, 8):
        g = gradients(run.workload, run.state(t + 1).theta)
        expected = expected + run.plan.lr[t, 0] * (query_gradients(run, t + 1) * factor) @ g.T
    torch.testing.assert_close(scores(run, TracIn())[:, 0], expected)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_for_plain_sgd_data_shapley_is_tracin_at_every_step(seed):
    run = ik.record(problem(seed, l2=0.05, optimizer=ik.SGD(lr=0.3)))
    windows = [ik.Window(0, 9), ik.Window(2, 7, "window"), ik.Window(4, 5, "occurrence")]
    found = scores(run, Shapley(), windows=windows)
    torch.testing.assert_close(found, scores(run, TracIn(checkpoints="step"), windows=windows))


def test_it_is_the_shapley_value_of_the_games_that_the_steps_are():
    """A query linear in theta and plain SGD: the game of a step is additive, so first order is exact.

    The value of j by its definition, over all coalitions of the batch.
    """
    run = ik.record(tiny_workload())
    workload = run.workload
    vector = torch.linspace(-1, 1, workload.n_params, dtype=torch.float64)
    query = ik.make("query", "vector", vector=vector[None])
    expected = torch.zeros(workload.n_train, dtype=torch.float64)
    for t in range(run.steps):
        state, rows = run.state(t), run.plan.batch(t).tolist()
        b, slots = len(rows), len(run.plan.indices[t])

        def gain(some, state=state, b=b, slots=slots):
            present = torch.tensor([float(k in some) for k in range(slots)], dtype=torch.float64)
            return vector @ (run.step.advance_with(state, present / b)[0].theta - state.theta)

        for k, j in enumerate(rows):
            others = [i for i in range(b) if i != k]
            for size in range(b):
                weight = 1 / (b * math.comb(b - 1, size))
                for some in itertools.combinations(others, size):
                    expected[j] -= weight * (gain({*some, k}) - gain(set(some)))
    torch.testing.assert_close(scores(run, Shapley(), query)[0, 0], expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_for_every_optimizer_it_is_the_derivative_of_single_steps_by_weights(name):
    run = recorded(name)
    query = ik.make("query", "test-losses")
    expected = torch.zeros(run.workload.n_test, run.workload.n_train, dtype=torch.float64)
    for t in range(run.steps):
        state, b = run.state(t), len(run.plan.batch(t))
        after = run.step.advance(state)[0].theta
        # q linearised at theta_t, as the value is counted there
        q = query.gradient(run.workload, state.theta)
        for k, j in enumerate(run.plan.batch(t).tolist()):
            moved = []
            for h in (1e-6, -1e-6):
                weights = run.step.coefficients(t).clone()
                weights[k] += h / b
                moved.append(run.step.advance_with(state, weights)[0].theta)
            expected[:, j] -= q @ (moved[0] - moved[1]) / 2e-6
        assert after.isfinite().all()
    torch.testing.assert_close(scores(run, Shapley())[:, 0], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("estimator", [Shapley(), TracIn(checkpoints="step")])
def test_contributions_come_by_occurrence(estimator):
    run = network()
    found = ik.contributions(run, "test-loss", estimator, at=[4, 9])
    assert (found.contribution.sel(evaluation=4).values[:, 4:] == 0).all()
    late = ik.sum_over_windows(found, [ik.Window(4, 9)]).influence.values
    torch.testing.assert_close(torch.from_numpy(late), scores(run, estimator, "test-loss", [ik.Window(4, 9)]))


def test_options_that_are_none_are_refused_in_one_line():
    with pytest.raises(ik.InputError, match="layers=all or last and checkpoints=epoch or step, got 'first'"):
        TracIn(layers="first")
