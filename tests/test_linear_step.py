"""Readings of the step: curvature and gradient products, pulling back and pushing forward."""

from contextlib import nullcontext

import pytest
import torch
from helpers_step import KINDS, dense, each_kind, positions, untraced, walked
from hypothesis import given, settings
from hypothesis import strategies as st

from influencekit import Adam, InputError, Window, make
from influencekit._training.curvature import CURVATURES
from influencekit._training.state import State
from influencekit._training.step import Step
from influencekit.testing import tiny_workload
from influencekit.testing.setting import OPTIMIZERS, recorded

# pull ---------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("columns", [1, 2, 3, 35])
def test_products_and_shares_equal_dense_matrices(kind, curvature, columns):
    step, states = walked(kind)
    workload = step.workload
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(columns, workload.n_params, generator=generator, dtype=torch.float64)
    seen = []
    for state, here in step.linear(curvature).backwards(states):
        seen.append(state.step)
        rows = positions(step, state.step)
        matrix, g = dense(workload, curvature, state.theta, rows)
        product, gradient_products, _ = here.pull(c, c[:, :0])
        torch.testing.assert_close(product, c @ matrix, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(gradient_products[:, : len(rows)], c @ g.T, rtol=1e-10, atol=1e-12)
    assert seen == list(range(step.plan.steps))[::-1]


@pytest.mark.parametrize("memory", [0, 4000, 1 << 30])
def test_the_number_of_steps_computed_ahead_changes_nothing(memory, monkeypatch):
    step, states = walked("one logit")
    linear = step.linear("hessian")
    c = torch.linspace(-1, 1, step.workload.n_params, dtype=torch.float64)[None]
    expected = [here.pull(c, c[:, :0])[:2] for _, here in linear.backwards(states)]
    monkeypatch.setattr("influencekit._training.linear._BLOCK", memory)
    for (_, here), (product, gradient_products) in zip(linear.backwards(states), expected, strict=True):
        torch.testing.assert_close(here.pull(c, c[:, :0])[0], product, rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(here.pull(c, c[:, :0])[1], gradient_products, rtol=1e-13, atol=1e-15)


@each_kind
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("fast", [True, False])
def test_the_gradient_that_comes_with_the_pull_is_that_of_training(kind, curvature, fast):
    """Its kernels are others, of the same pass as the products: float64 rounding apart."""
    with nullcontext() if fast else untraced():
        step = Step(KINDS[kind](optimizer=Adam(lr=0.1)))
        states = [step.start()]
        states.append(step.advance(states[0])[0])
        for state, here in step.linear(curvature).backwards(states):
            g, _ = step.gradient(state, step.coefficients(state.step))
            torch.testing.assert_close(here.gradient, g, rtol=1e-12, atol=1e-14)
        assert step.notes["derivatives"].startswith("forward" if fast else "reverse")


def test_without_need_for_a_gradient_there_is_none():
    step = Step(tiny_workload())  # plain SGD, whose pullback is linear in the gradient
    assert [here.gradient for _, here in step.linear().backwards([step.start()])] == [None]


def test_an_unknown_curvature_names_those_there_are():
    with pytest.raises(InputError, match="hessian, gauss-newton, fisher"):
        Step(tiny_workload()).linear("kfac")


# push ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pushing_a_removal_forward_is_the_transpose_of_pulling_a_query_back(name):
    """<gradient of q, pushed tangent> = <swept scores, weights' change>, for a change in steps 1 ... 4."""
    trajectory, query = recorded(name), make("query", "test-losses")
    workload, step, generator = trajectory.workload, trajectory.step, torch.Generator().manual_seed(0)
    change = torch.randn(workload.n_train, generator=generator, dtype=torch.float64)
    zero = torch.zeros_like(workload.theta0)
    tangent = State(zero, {k: zero for k in workload.optimizer.slots}, 1)
    for t in range(1, 5):
        tangent = step.push(trajectory.state(t), tangent, -change[step.rows(t)])
    pushed = query.gradient(workload, trajectory.state(5).theta) @ tangent.theta
    windows = [Window(1, 5, "window")] * 5  # as many as the conformance suite has: one trace serves both
    swept = make("estimator", "dit").scores(trajectory, query, windows)[:, 0] @ change
    torch.testing.assert_close(pushed, swept, rtol=1e-10, atol=1e-14)


@settings(max_examples=10)
@given(st.sampled_from(list(OPTIMIZERS)), st.integers(0, 2**31))
def test_push_equals_central_differences(name, seed):
    workload = tiny_workload(OPTIMIZERS[name])
    step, generator = Step(workload), torch.Generator().manual_seed(seed)
    state = step.advance(step.start())[0]

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # in proportion to the slots, some of which are 1e-8: v must stay well above 0
    slots = {k: v * random(workload.n_params) for k, v in state.slots.items()}
    tangent = State(random(workload.n_params), slots, 1)
    weights, h = random(4), 1e-6

    def moved(sign):
        theta = state.theta + sign * h * tangent.theta
        slots = {k: v + sign * h * tangent.slots[k] for k, v in state.slots.items()}
        return step.advance_with(State(theta, slots, 1), step.coefficients(1) * (1 + sign * h * weights))[0]

    pushed = step.push(state, tangent, weights)
    plus, minus = moved(1), moved(-1)
    # second-order in h and 1e-16 / h of rounding
    torch.testing.assert_close(pushed.theta, (plus.theta - minus.theta) / (2 * h), rtol=1e-6, atol=1e-7)
    for k in state.slots:
        difference = (plus.slots[k] - minus.slots[k]) / (2 * h)
        torch.testing.assert_close(pushed.slots[k], difference, rtol=1e-6, atol=1e-7)
