"""What autograd does not see may begin to act late in a run, or depend on what is tied: refused all the
same."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

N = 32
CE = nn.CrossEntropyLoss(reduction="none")


def data(seed=5):
    x = torch.randn(N + 16, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, (x.sum(1) > 0).long()


class Clipped(nn.Module):
    """The second layer's weight is scaled back once it is longer than at first; `hides`: by a detached
    norm."""

    def __init__(self, hides):
        super().__init__()
        self.a, self.b, self.hides = nn.Linear(4, 8), nn.Linear(8, 2), hides

    def forward(self, x):
        w = self.b.weight
        norm = w.norm()
        limit = 1.1
        w = w * (limit / (norm.detach() if self.hides else norm)).clamp(max=1)
        return nn.functional.linear(torch.tanh(self.a(x)), w, self.b.bias)


def paced(outputs, target):
    """Examples count less once they are easy, by a detached confidence: at the start none is."""
    p = torch.softmax(outputs, 1).gather(1, target[:, None])[:, 0].detach()
    return torch.where(p > 0.85, 1 - p, torch.ones_like(p)) * CE(outputs, target)


def built(make):
    torch.manual_seed(0)
    return make().double()


def plain():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def recorded(make, loss):
    x, y = data()
    problem = ik.Workload(
        model=built(make), loss=loss, train=(x[:N], y[:N]), test=(x[N:], y[N:]),
        optimizer=ik.SGD(lr=0.3, momentum=0.9), epochs=6, batch_size=8,
    )  # fmt: skip
    return ik.record(problem)


def taped(make, loss):
    x, y = data()
    train, test, model = TensorDataset(x[:N], y[:N]), TensorDataset(x[N:], y[N:]), built(make)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    with ik.Tape(None, model, optimizer, loss=loss, data=train) as tape:
        for _ in range(6):
            for _, (inputs, target) in tape.batches(DataLoader(train, batch_size=8)):
                optimizer.zero_grad()
                loss(model(inputs), target).mean().backward()
                optimizer.step()
    return tape.trajectory(test=test)


@pytest.mark.parametrize("run", [recorded, taped])
@pytest.mark.parametrize("query", ["test-loss", "parameter:name=2.weight:index=0+0"])
def test_a_detached_weight_that_begins_to_act_after_the_first_step_is_refused(run, query):
    with pytest.raises(ik.InputError, match="autograd does not see"):
        ik.estimate(run(plain, paced), query, "dit")


@pytest.mark.parametrize("run", [recorded, taped])
def test_a_constraint_that_becomes_active_is_refused_where_it_hides_its_derivative(run):
    made = run(lambda: Clipped(True), CE)
    assert np.isfinite(ik.estimate(made, "test-loss", "loo:examples=2:strategy=loop").influence).any()
    with pytest.raises(ik.InputError, match="autograd does not see"):
        ik.estimate(made, "test-loss", "dit")
    assert np.isfinite(ik.estimate(run(lambda: Clipped(False), CE), "test-loss", "dit").influence).all()


class Language(nn.Module):
    """A tied language model on whole sequences, its loss the mean over tokens."""

    def __init__(self, padding):
        super().__init__()
        self.e, self.o = nn.Embedding(6, 3, padding_idx=padding), nn.Linear(3, 6)
        self.o.weight = self.e.weight

    def forward(self, x):
        return self.o(torch.tanh(self.e(x)))


@pytest.mark.parametrize("padding", [0, None])
def test_a_padding_row_that_another_module_trains_is_refused_for_first_order_scores(padding):
    torch.manual_seed(0)
    x = torch.randint(0, 6, (12, 4))

    def loss(outputs, target):
        return nn.functional.cross_entropy(outputs.transpose(1, 2), target, reduction="none").mean(1)

    problem = ik.Workload(
        model=Language(padding).double(), loss=loss, train=(x, x.roll(1, 1)), test=(x, x),
        optimizer=ik.SGD(lr=0.1), epochs=2, batch_size=4,
    )  # fmt: skip
    run = ik.record(problem)
    exact = ik.estimate(run, "test-loss", "loo").influence.values
    assert np.isfinite(exact).all()
    if padding is None:
        assert (
            np.corrcoef(ik.estimate(run, "test-loss", "dit").influence.values.ravel(), exact.ravel())[0, 1]
            > 0.9
        )
        return
    with pytest.raises(ik.InputError, match="padding_idx=0, and its weight is o.weight"):
        ik.estimate(run, "test-loss", "dit")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train": (np.zeros((4, 4)), np.zeros(4))}, "train: expected tensors, got ndarray"),
        ({"optimizer": torch.optim.SGD}, "optimizer: expected one of influencekit's, such as SGD"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"seed": "a"}, "seed must be a whole number"),
    ],
)
def test_what_a_workload_is_not_made_of_is_named(options, said):
    x, y = data()
    usual = {"train": (x, y), "test": (x, y), "optimizer": ik.SGD(lr=0.1)}
    with pytest.raises(ik.InputError, match=said):
        ik.Workload(model=built(plain), loss=CE, **{**usual, **options})


def test_verbs_name_what_they_were_given_instead():
    run = recorded(plain, CE)
    with pytest.raises(ik.InputError, match=r"windows: expected Window"):
        ik.estimate(run, "test-loss", "dit", windows=[(0, 5)])
    scores = ik.estimate(run, "test-loss", "dit")
    with pytest.raises(ik.InputError, match="the whole result of estimate"):
        ik.verify_top(run, "test-loss", scores.influence)
    with pytest.raises(ik.InputError, match="expected a list of example ids, got 3"):
        ik.remove(run, "test-loss", 3)
