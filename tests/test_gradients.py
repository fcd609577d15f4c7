"""Gradients of single examples: rows of the jacobian, by themselves where losses are separable."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers_step import KINDS
from torch import nn

from influencekit import Query, Workload, make
from influencekit._training.checks.separability import own_losses
from influencekit._training.gradients import example_gradients
from influencekit._training.optimizers import SGD

LOSSES = make("query", "test-losses")


class Recurrent(nn.Module):
    """A small recurrent classifier; vmap has no rule for it."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def problem(model, x, loss=None):
    y = torch.arange(len(x)) % 2
    loss = loss or nn.CrossEntropyLoss(reduction="none")
    return Workload(model=model.double(), loss=loss, train=(x, y), test=(x, y), optimizer=SGD(lr=0.1))


def sequences(*shape):
    return torch.linspace(-2, 2, torch.Size(shape).numel(), dtype=torch.float64).reshape(shape).sin()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("room", [1, 1 << 28])
def test_each_loss_by_itself_equals_the_jacobian(kind, room, monkeypatch):
    monkeypatch.setattr("influencekit._training.gradients._MEMORY", room)
    workload = KINDS[kind]()
    theta = workload.theta0 + 0.1
    expected = Query.gradient(LOSSES, workload, theta)
    torch.testing.assert_close(LOSSES.gradient(workload, theta), expected, rtol=1e-12, atol=1e-14)
    penalised = example_gradients(workload, theta, workload.test, l2=0.3)
    torch.testing.assert_close(penalised, expected + 0.3 * theta, rtol=1e-12, atol=1e-14)


def contrastive(outputs, target):
    """A loss in which every example looks at all others."""
    return -(outputs @ outputs.T).log_softmax(1).diagonal() + 0.0 * target


@pytest.mark.parametrize(
    "workload",
    [
        problem(
            nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)),
            sequences(6, 3),
        ),
        problem(nn.Linear(3, 4), sequences(6, 3), contrastive),
    ],
    ids=["batch norm in training mode", "a contrastive loss"],
)
def test_losses_that_see_the_batch_are_differentiated_as_a_batch(workload):
    assert not own_losses(partial(workload.losses, workload.theta0), workload.test)
    alone = replace(workload, test=tuple(x[:1] for x in workload.test))
    other = problem(nn.Linear(3, 2), sequences(6, 3))
    assert own_losses(partial(other.losses, other.theta0), workload.test)
    theta = workload.theta0
    found = LOSSES.gradient(workload, theta)
    torch.testing.assert_close(found, Query.gradient(LOSSES, workload, theta), rtol=0, atol=0)
    if workload.loss is contrastive:  # it is not the gradient of an example by itself
        assert (found[:1] - LOSSES.gradient(alone, theta)).abs().max() > 1e-3


def test_layers_without_a_batching_rule_are_differentiated_all_the_same():
    workload = problem(Recurrent(), sequences(4, 5, 3))
    found = LOSSES.gradient(workload, workload.theta0)
    theta = workload.theta0.clone().requires_grad_()
    losses = workload.losses(theta, workload.test)
    expected = torch.stack([torch.autograd.grad(x, theta, retain_graph=True)[0] for x in losses])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
