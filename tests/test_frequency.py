"""A gradient that counts how often an index is in its batch: rows that pad a short batch do not count."""

import numpy as np
import pytest
import torch
from torch import nn

import influencekit as ik

ORDER = [[0, 1, 2, 3], [4, 5], [6, 7, 0], [1, 4, 2, 5]]
losses = nn.CrossEntropyLoss(reduction="none")


class Words(nn.Module):
    def __init__(self, functional):
        super().__init__()
        self.table, self.head = nn.Parameter(torch.randn(5, 4)), nn.Linear(4, 3)
        self.look = nn.Embedding(5, 4, scale_grad_by_freq=True)
        self.functional = functional
        if functional:
            self.look = None

    def forward(self, x):
        if self.functional:
            return self.head(nn.functional.embedding(x, self.table, scale_grad_by_freq=True).mean(1).tanh())
        return self.head(self.look(x).mean(1).tanh() + 0 * self.table.sum())


def build(functional):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Words(functional).double()


def examples():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 5, (8, 3), generator=generator), torch.arange(8) % 3


def by_hand(functional, weights):
    """The parameters, and the mean loss, after a plain loop."""
    model, (x, y) = build(functional), examples()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for rows in ORDER:
        optimizer.zero_grad()
        (losses(model(x[rows]), y[rows]) * weights[rows]).mean().backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach(), float(losses(model(x), y).mean())


@pytest.mark.parametrize("functional", [False, True])
def test_short_batches_are_trained_as_a_plain_loop_does(functional):
    order = torch.full((4, 4), -1)
    for t, rows in enumerate(ORDER):
        order[t, : len(rows)] = torch.tensor(rows)
    run = ik.record(
        ik.Workload(
            model=build(functional), loss=losses, train=examples(), test=examples(),
            optimizer=ik.SGD(lr=0.5), order=order,
        )
    )  # fmt: skip
    theta, full = by_hand(functional, torch.ones(8))
    torch.testing.assert_close(run.final.theta, theta, rtol=0, atol=1e-12)
    wanted = [by_hand(functional, 1.0 - (torch.arange(8) == j).double())[1] - full for j in range(8)]
    found = ik.estimate(run, "test-loss", "loo").influence.values.ravel()
    np.testing.assert_allclose(found, wanted, atol=1e-12)
