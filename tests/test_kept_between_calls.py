"""Models that keep something for their next call, beside parameters and buffers, against plain loops."""

import numpy as np
import pytest
import torch
from helpers_tape import Examples, held_out, per_example, sample
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik
from influencekit._training.kernels.attributes import forgotten

ORDER = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 0, 2], [1, 3, 5, 7, 9], [4, 6, 8, 10]]
LR = 0.3


class Positive(nn.Linear):
    """In evaluation mode the weights are computed once, until the mode changes (`into` tells to which)."""

    kept, into = None, (True, False)

    def train(self, mode=True):
        if mode in self.into:
            self.kept = None
        return super().train(mode)

    def forward(self, x):
        if self.training or self.kept is None:
            weight = self.weight.exp()
        if not self.training:
            weight = self.kept = weight if self.kept is None else self.kept
        return nn.functional.linear(x, weight, self.bias)


class PositiveUntilTrained(Positive):
    into = (True,)


class PositiveInDict(Positive):
    """The same, kept in a dict."""

    def __init__(self, *args):
        super().__init__(*args)
        self.all = {}

    def train(self, mode=True):
        self.all.clear()
        return nn.Linear.train(self, mode)

    def forward(self, x):
        if self.training:
            return nn.functional.linear(x, self.weight.exp(), self.bias)
        weight = self.all.setdefault("weight", self.weight.exp())
        return nn.functional.linear(x, weight, self.bias)


class Ramp(nn.Linear):
    """What is added depends on the size of the batch, and is kept for the next batch of that size."""

    kept = None

    def forward(self, x):
        if self.kept is None or len(self.kept) != len(x):
            self.kept = torch.linspace(0, 1, 5, dtype=x.dtype).repeat(len(x), 1)
        return super().forward(x) + self.kept


class Complex(nn.Module):
    """Complex weights as a real parameter, behind one of odd size."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.weight = nn.Parameter(torch.randn(4, 5, 2))

    def forward(self, x):
        return self.scale * (x.to(torch.complex128) @ torch.view_as_complex(self.weight)).abs()


FIRST = {
    "evaluation": lambda: Positive(4, 5), "until trained": lambda: PositiveUntilTrained(4, 5),
    "dict": lambda: PositiveInDict(4, 5), "ramp": lambda: Ramp(4, 5), "complex": Complex,
}  # fmt: skip


def build(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(FIRST[name](), nn.Tanh(), nn.Linear(5, 3)).double()


def by_hand(name, weights):
    """The mean test loss after a plain loop with these weights on the losses of examples."""
    model, (x, y), (x_test, y_test) = build(name), sample(), held_out()
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9)
    for rows in ORDER:
        optimizer.zero_grad()
        (per_example(model(x[rows]), y[rows]) * weights[rows]).mean().backward()
        optimizer.step()
    with torch.no_grad():
        return float(per_example(model.eval()(x_test), y_test).mean())


def recorded(name):
    order = torch.full((len(ORDER), 5), -1)
    for t, rows in enumerate(ORDER):
        order[t, : len(rows)] = torch.tensor(rows)
    workload = ik.Workload(
        model=build(name), loss=per_example, train=sample(), test=held_out(),
        optimizer=ik.SGD(lr=LR, momentum=0.9), order=order,
    )  # fmt: skip
    return ik.record(workload)


def taped(name, evaluated=True):
    model, data = build(name), Examples()
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9)
    with ik.Tape(None, model, optimizer, loss=per_example, data=data) as tape:
        for _, (x, y) in tape.batches(DataLoader(data, batch_sampler=ORDER)):
            optimizer.zero_grad()
            per_example(model(x), y).mean().backward()
            optimizer.step()
    if evaluated:  # as users do: now it may keep weights of the end
        with torch.no_grad():
            model.eval()(held_out()[0])
    return tape.trajectory(test=held_out())


@pytest.mark.parametrize("run", [recorded, taped])
@pytest.mark.parametrize("name", FIRST)
def test_scores_are_those_of_a_plain_loop(name, run):
    run, full = run(name), by_hand(name, torch.ones(12))
    for estimator in ("dit", "loo"):
        found = ik.estimate(run, "test-loss", estimator, [ik.Window(0, 3), ik.Window(0, 5)])
        scores = found.influence.values[0, 1]
        wanted = np.zeros(12)
        for j in range(12):
            step = 1e-4 * torch.nn.functional.one_hot(torch.tensor(j), 12).double()
            if estimator == "loo":
                wanted[j] = by_hand(name, 1 - step / 1e-4) - full
            else:
                wanted[j] = (by_hand(name, 1 - step) - by_hand(name, 1 + step)) / 2e-4
        np.testing.assert_allclose(scores, wanted, atol=1e-7 * abs(wanted).max())


class Merged(nn.Module):
    """A low-rank adapter that goes into the frozen weight in evaluation mode, as that of loralib does."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4), requires_grad=False)
        self.a, self.b = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(5, 2))
        self.merged = False

    def train(self, mode=True):
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * (self.b @ self.a).data
            self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        found = x @ self.weight.T
        return found if self.merged else found + x @ self.a.T @ self.b.T


def test_an_adapter_that_is_merged_in_evaluation_mode_is_refused():
    """Queries were of merged weights: no score followed the adapter."""
    model = nn.Sequential(Merged(), nn.Tanh(), nn.Linear(5, 3)).double()
    before = model[0].weight.clone()
    with pytest.raises(
        ik.InputError, match=r"^model\.eval\(\) changes 0\.weight \(it merges an adapter"
    ) as e:
        ik.record(
            ik.Workload(
                model=model, loss=per_example, train=sample(), test=held_out(), optimizer=ik.SGD(lr=LR)
            )
        )
    assert "\n" not in str(e.value)
    assert torch.equal(model[0].weight, before)


class Fused(nn.Module):
    """Two layers that become one when the mode changes."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fused = nn.Linear(4, 5), nn.Linear(4, 5), None

    def train(self, mode=True):
        one = (self.a.weight + self.b.weight).detach(), (self.a.bias + self.b.bias).detach()
        self.fused = None if mode else one
        return super().train(mode)

    def forward(self, x):
        return self.a(x) + self.b(x) if self.fused is None else nn.functional.linear(x, *self.fused)


class Box:
    weight = None


class Boxed(nn.Linear):
    """What is kept is kept in an object."""

    def __init__(self):
        super().__init__(4, 5)
        self.box = Box()

    def forward(self, x):
        if self.training:
            return nn.functional.linear(x, self.weight.exp(), self.bias)
        self.box.weight = self.weight.exp() if self.box.weight is None else self.box.weight
        return nn.functional.linear(x, self.box.weight, self.bias)


@pytest.mark.parametrize("run", [recorded, lambda name: taped(name, evaluated=False)])
@pytest.mark.parametrize("first", [Fused, Boxed])
def test_weights_that_queries_would_not_follow_are_refused(first, run, monkeypatch):
    monkeypatch.setitem(FIRST, "other", first)
    with pytest.raises(ik.InputError, match="keeps what it computed of its weights") as error:
        run("other")
    assert "\n" not in str(error.value)


def test_forgotten_keeps_objects():
    module = nn.Linear(2, 2)
    module.store, module.names, module.seen, module.kept = {"a": 1}, ["x"], {1}, None
    known = module.store
    with forgotten([module]):
        module.store["b"], module.kept, module.new = 2, torch.ones(1), 3
        module.names.append("y")
        module.seen = {2}
    assert module.store is known and known == {"a": 1}
    assert (module.names, module.seen, module.kept, hasattr(module, "new")) == (["x"], {1}, None, False)
