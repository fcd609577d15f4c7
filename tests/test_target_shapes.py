"""Targets of test and trusted examples that the loss would spread out: [n] beside outputs [n, 1]."""

import pytest
import torch
from torch import nn

import influencekit as ik

SAID = r"targets have the shape \[n\], and in training \[n, 1\]; the loss then compares each example with"


def sample(n, seed):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, x.sum(1, keepdim=True)


def squares(outputs, target):
    return ((outputs - target) ** 2).mean(1)


def flat(n):
    x, y = sample(n, 1)
    return x, y[:, 0]


def workload(test, **changes):
    given = {"model": nn.Linear(3, 1).double(), "loss": squares, "train": sample(20, 0), "test": test}
    return ik.Workload(**given | {"optimizer": ik.SGD(lr=0.1), "epochs": 2, "batch_size": 5} | changes)


def test_recorded_runs_refuse_them():
    with pytest.raises(ik.InputError, match=f"^test: {SAID}"):
        ik.record(workload(flat(30)))


def test_taped_runs_refuse_them():
    data = torch.utils.data.TensorDataset(*sample(20, 0))
    model = nn.Linear(3, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ik.Tape(None, model, optimizer, loss=squares, data=data) as tape:
        for _, (x, y) in tape.batches(torch.utils.data.DataLoader(data, batch_size=5)):
            optimizer.zero_grad()
            squares(model(x), y).mean().backward()
            optimizer.step()
    with pytest.raises(ik.InputError, match=f"^test: {SAID}"):
        tape.trajectory(test=flat(30))
    assert tape.trajectory(test=sample(30, 1)).workload.n_test == 30


@pytest.mark.parametrize("verb", [ik.curate, ik.suspects])
def test_trusted_examples_are_refused(verb):
    with pytest.raises(ik.InputError, match=f"^trusted: {SAID}"):
        verb(ik.record(workload(sample(30, 1))), flat(30))


def test_a_loss_that_takes_both_forms_takes_them():
    """Cross-entropy takes probabilities [n, class] and classes [n]: each example still has its own loss."""
    (x, y), (z, t) = sample(20, 0), sample(30, 1)
    soft, hard = torch.cat([y.sigmoid(), 1 - y.sigmoid()], 1), (t[:, 0] < 0).long()
    given = {"model": nn.Linear(3, 2).double(), "loss": nn.CrossEntropyLoss(reduction="none")}
    run = ik.record(workload((z, hard), train=(x, soft), **given))
    assert ik.curate(run, k=(2,), draws=1, folds=3).sizes["trusted"] == 30
    hardly = ik.record(workload((z, hard), train=(x, (y[:, 0] < 0).long()), **given))
    two = torch.eye(2, dtype=torch.float64)[hard]
    with pytest.raises(ik.InputError, match=r"one class each, and trusted ones targets of shape \[30, 2\]"):
        ik.suspects(hardly, (z, two))
