"""A module of two names and tied weights: right, by record and by tape, against a formula without modules."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

CE = nn.CrossEntropyLoss(reduction="none")
N, LR, MOMENTUM = 12, 0.3, 0.9


class Net(nn.Module):
    """One layer under two names, and a weight that two modules have."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.first = self.second = nn.Linear(4, 4, dtype=torch.float64)
            self.inner, self.out = (nn.Linear(4, 4, bias=b, dtype=torch.float64) for b in (False, True))
        self.out.weight = self.inner.weight

    def forward(self, x):
        return self.out(torch.tanh(self.inner(torch.tanh(self.second(torch.tanh(self.first(x)))))))


def formula(p, x):
    """The model as a function of its four parameters."""
    h = torch.tanh(x @ p["first.weight"].T + p["first.bias"])
    h = torch.tanh(h @ p["first.weight"].T + p["first.bias"])
    return torch.tanh(h @ p["inner.weight"].T) @ p["inner.weight"].T + p["out.bias"]


def data(n=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] > 0).long()


def trained(order, weights):
    """The mean test loss after the run, a function of the examples' weights."""
    (x, y), (a, b) = data(), data(6, 1)
    p = {name: q.detach().clone().requires_grad_() for name, q in Net().named_parameters()}
    v = {name: 0.0 for name in p}
    for rows in order:
        loss = (weights[rows] * CE(formula(p, x[rows]), y[rows])).mean()
        grads = torch.autograd.grad(loss, list(p.values()), create_graph=True)
        v = {name: MOMENTUM * v[name] + g for name, g in zip(p, grads, strict=True)}
        p = {name: p[name] - LR * v[name] for name in p}
    return CE(formula(p, a), b).mean()


def recorded():
    return ik.record(
        ik.Workload(
            model=Net(), loss=CE, train=data(), test=data(6, 1), optimizer=ik.SGD(lr=LR, momentum=MOMENTUM),
            epochs=3, batch_size=4,
        )
    )  # fmt: skip


def taped():
    model, examples = Net(), TensorDataset(*data())
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=MOMENTUM)
    with ik.Tape(None, model, optimizer, loss=CE, data=examples, check=1.0) as tape:
        for _ in range(3):
            for _, (x, y) in tape.batches(DataLoader(examples, batch_size=4, shuffle=True)):
                optimizer.zero_grad()
                CE(model(x), y).mean().backward()
                optimizer.step()
    return tape.trajectory(test=data(6, 1))


@pytest.mark.parametrize("run", [recorded, taped])
def test_tied_weights_and_a_module_of_two_names(run):
    trajectory = run()
    order = [row.tolist() for row in trajectory.plan.indices]
    ones = torch.ones(N, dtype=torch.float64, requires_grad=True)
    base = trained(order, ones)
    expected = -torch.autograd.grad(base, ones)[0]
    dit = torch.from_numpy(ik.estimate(trajectory, "test-loss", "dit").influence.values.ravel())
    assert torch.allclose(dit, expected, rtol=1e-9, atol=1e-12)  # both in float64, through 9 steps
    loo = ik.estimate(trajectory, "test-loss", "loo").influence.values.ravel()
    for j in (0, 7):
        weights = torch.ones(N, dtype=torch.float64)
        weights[j] = 0
        assert loo[j] == pytest.approx((trained(order, weights) - base).item(), rel=1e-9)


def test_the_workloads_own_model_stays_what_it_was():
    """Torch's functional_call leaves what was put into a module of two names there; ours does not."""
    trajectory = recorded()
    model = trajectory.workload.model
    before = {name: (p, p.detach().clone()) for name, p in model.named_parameters()}
    for estimator in ("dit", "loo", "if"):
        ik.estimate(trajectory, "test-loss", estimator)
    now = dict(model.named_parameters())
    assert list(now) == list(before)
    assert all(now[n] is p and torch.equal(p, values) for n, (p, values) in before.items())
