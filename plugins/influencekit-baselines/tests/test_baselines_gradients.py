"""Products and norms of gradients against closed forms on linear models, and against slow loops."""

from dataclasses import replace

import pytest
import torch
from helpers_baselines import SquaredLoss, gradients, problem, scores
from hypothesis import given, settings
from hypothesis import strategies as st
from influencekit_baselines import GradCos, GradDot, GradNorm, SelfInfluence, TracIn
from torch import nn

import influencekit as ik


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), l2=st.sampled_from([0.0, 0.1]))
def test_on_a_linear_model_gradients_are_inputs_times_residuals(seed, l2):
    run = ik.record(problem(seed, squared=True, l2=l2))
    theta, (x, y), (a, b) = run.final.theta, run.workload.train, run.workload.test
    g = (x @ theta - y)[:, None] * x + l2 * theta
    q = (a @ theta - b)[:, None] * a
    torch.testing.assert_close(scores(run, GradDot())[:, 0], q @ g.T)
    cosines = torch.nn.functional.cosine_similarity(q[:, None], g[None], dim=2)
    torch.testing.assert_close(scores(run, GradCos())[:, 0], cosines)
    torch.testing.assert_close(scores(run, GradNorm())[:, 0], -g.norm(dim=1).expand(len(q), -1))


def test_a_cosine_with_a_gradient_of_nothing_is_zero():
    workload = problem(squared=True, l2=0.0)
    workload.train[0][3] = 0.0  # an input of zeros has no gradient
    found = scores(ik.record(workload), GradCos())
    assert (found[..., 3] == 0).all() and (found[..., 4] != 0).all()


def test_cosines_are_those_of_slow_gradients_on_a_network():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0))
    run = ik.record(problem(model=model, l2=0.05))
    q = ik.make("query", "test-losses").gradient(run.workload, run.final.theta)
    g = gradients(run.workload, run.final.theta)
    torch.testing.assert_close(scores(run, GradDot())[:, 0], q @ g.T)
    torch.testing.assert_close(
        scores(run, GradCos())[:, 0], torch.nn.functional.cosine_similarity(q[:, None], g[None], dim=2)
    )


def test_self_influence_sums_learning_rate_times_squared_norm_over_epochs():
    run = ik.record(problem(schedule=ik.InverseSqrt(), l2=0.05))
    expected = torch.zeros(12, dtype=torch.float64)
    for t in (2, 5, 8):  # three steps an epoch
        norms = gradients(run.workload, run.state(t + 1).theta).square().sum(1)
        expected -= run.plan.lr[t, 0] * norms
    torch.testing.assert_close(scores(run, SelfInfluence())[0, 0], expected)


def test_self_influence_is_tracin_of_an_examples_own_loss_whatever_the_groups():
    """The learning rate of the first group counted for the parameters of all."""
    optimizer = ik.SGD(
        lr=0.1, groups=(ik.Group(("0.*",), {"lr": 0.7}), ik.Group(("2.weight",), {"lr": 0.01}))
    )
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0))
    workload = problem(model=model, optimizer=optimizer)
    run = ik.record(replace(workload, test=workload.train))
    own = ik.estimate(run, "test-losses", TracIn()).influence.values[:, 0].diagonal()
    torch.testing.assert_close(scores(run, SelfInfluence())[0, 0], -torch.from_numpy(own.copy()))


def test_gradients_of_dict_batches_and_convolutions_are_formed_as_well():
    layers = [nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(4, 1), nn.Flatten(0)]
    run = ik.record(problem(model=nn.Sequential(*layers)))
    norms = gradients(run.workload, run.final.theta).norm(dim=1)
    torch.testing.assert_close(scores(run, GradNorm())[0, 0], -norms)
    tiny = ik.record(ik.testing.tiny_workload(batches="dict"))
    norms = gradients(tiny.workload, tiny.final.theta).norm(dim=1)
    torch.testing.assert_close(scores(tiny, GradNorm())[0, 0], -norms)


@pytest.mark.parametrize("estimator", [GradNorm(), SelfInfluence()])
def test_scores_without_a_query_are_the_same_for_every_query_and_say_so(estimator):
    run = ik.record(problem())
    result = ik.estimate(run, "test-losses", estimator)
    assert (result.influence == result.influence[0]).all() and (result.influence < 0).any()
    assert result.attrs["note_query"].startswith("not used")


def test_the_helper_is_half_the_squared_error():
    assert SquaredLoss()(torch.tensor(3.0), torch.tensor(1.0)) == 2
