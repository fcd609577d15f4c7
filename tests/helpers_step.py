"""The kinds of small workloads that the step is tested on, walked, and their dense matrices."""

from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch import nn
from torch.func import hessian, jacrev

from influencekit import SGD, Workload
from influencekit._training.batch import select
from influencekit._training.kernels.tracing import Untraced, try_trace
from influencekit._training.step import Step
from influencekit.testing import tiny_workload

KINDS = {
    "one logit": lambda **o: tiny_workload(**o),
    "three classes in dicts": lambda **o: tiny_workload(classes=3, batches="dict", **o),
    "an autoencoder": lambda **o: tiny_workload(batches="tensor", **o),
}


class Conv(nn.Module):
    """A small convolutional classifier, smooth."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.head = nn.Linear(2, 1)

    def forward(self, x):
        return self.head(torch.tanh(self.conv(x)).mean((2, 3))).squeeze(-1)


def conv_workload(dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Conv().to(dtype)
    x = torch.randn(7, 1, 5, 5, generator=generator, dtype=torch.float64).to(dtype)
    y = (torch.arange(7) % 2).to(dtype)
    settings = {"optimizer": SGD(lr=0.5, momentum=0.5), "epochs": 2, "batch_size": 4, "l2": 0.01} | options
    loss = nn.BCEWithLogitsLoss(reduction="none")
    return Workload(model=model, loss=loss, train=(x, y), test=(x[:3], y[:3]), **settings)


KINDS["convolutions"] = conv_workload
each_kind = pytest.mark.parametrize("kind", KINDS)


def as_it_is(fn, *example, others=(), slow=None):
    return Untraced(slow or fn, "for these tests")


@contextmanager
def untraced():
    """Tracing takes longer than a tiny run; where the optimizer or the query is in question, do without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("influencekit._training.traced.try_trace", as_it_is)
        patch.setattr("influencekit._training.kernels.products.try_trace", as_it_is)
        yield


@contextmanager
def traced():
    """Within `untraced`, for those who ask what tracing finds out, such as whether the model convolves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("influencekit._training.traced.try_trace", try_trace)
        patch.setattr("influencekit._training.kernels.products.try_trace", try_trace)
        yield


@pytest.fixture(scope="module")
def quick():
    """A module's tests without tracing."""
    with untraced():
        yield


@cache
def walked(kind):
    """The step of a kind of workload, and the states of its run."""
    step = Step(KINDS[kind]())
    states = [step.start()]
    for _ in range(step.plan.steps - 1):
        states.append(step.advance(states[-1])[0])
    return step, states


def positions(step, t):
    return step.plan.batch(t)


def mean_loss(workload, theta, rows, weights=None):
    """(1/b) sum_i w_i (loss_i + penalty), as the documentation says it."""
    losses = workload.losses(theta, select(workload.train, rows)) + 0.5 * workload.l2 * (theta @ theta)
    return ((1.0 if weights is None else weights) * losses).sum() / len(rows)


def dense(workload, curvature, theta, rows):
    """(matrix [param, param], per-example gradients [slot, param]) of the batch's mean loss."""
    batch, n = select(workload.train, rows), len(rows)
    penalty = workload.l2 * torch.eye(len(theta), dtype=theta.dtype)
    g = jacrev(lambda x: workload.losses(x, batch) + 0.5 * workload.l2 * x @ x)(theta)
    if curvature == "hessian":
        return hessian(lambda x: mean_loss(workload, x, rows))(theta), g
    if curvature == "fisher":
        return g.T @ g / n, g
    if curvature == "none":
        return torch.zeros_like(penalty), g
    total = torch.zeros_like(penalty)
    for i in range(n):  # J^T (d2 loss / d outputs2) J, example by example
        one = select(workload.train, rows[i : i + 1])
        outputs = workload.outputs(theta, one)
        J = jacrev(lambda x, one=one: workload.outputs(x, one).flatten())(theta)
        B = hessian(lambda o, one=one, s=outputs.shape: workload.loss_of(o.view(s), one).sum())(
            outputs.flatten()
        )
        total = total + J.T @ B @ J / n
    return total + penalty, g
