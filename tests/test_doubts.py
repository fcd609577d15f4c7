"""What autograd does not see is right or refused: scores are those of central differences, or one line."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import influencekit as ik

N, TEST = 12, 6
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N + TEST, 4, generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(N + TEST, 2, generator=GENERATOR, dtype=torch.float64)


def squared(outputs, target):
    return ((outputs - target) ** 2).mean(1)


class Net(nn.Module):
    """Two layers, and what is done with the features between."""

    def __init__(self, between=lambda self, h: h):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(4, 5), nn.Linear(5, 2), between
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, x):
        return self.b(self.between(self, torch.tanh(self.a(x))))


class Rounded(torch.autograd.Function):
    """Straight through."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


class Reversed(torch.autograd.Function):
    """The gradient of adversarial training is not that of the value."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return -0.3 * g


class Honest(torch.autograd.Function):
    """A backward of its own that has a derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return ctx.saved_tensors[0].cos() * g


def followed(self, h, hidden=True):
    """An average kept under no_grad, of which the features are taken as it was before."""
    before = self.mean.clone()
    if self.training:
        with torch.no_grad():
            self.mean.mul_(0.5).add_(0.5 * h.mean(0))
    return h - before


def itself(self, h):
    """The same, taken as it is after the update: an example's loss depends on the others."""
    followed(self, h)
    return h - self.mean


def in_numbers(self, h):
    """An average kept as Python numbers."""
    before = self.mean.clone()
    if self.training:
        self.mean = torch.tensor(h.detach().mean(0).tolist(), dtype=h.dtype)
    return h - before


def by_numpy(self, h):
    before = self.mean.clone()
    if self.training:
        self.mean.copy_(torch.from_numpy(h.detach().numpy().mean(0)))
    return h - before


def noisy_buffer(self, h):
    """A buffer that counts, in floating point."""
    self.mean += 1
    return h + 0.01 * self.mean


FEATURES = {
    "nothing": lambda self, h: h,
    "a detached copy of a constant": lambda self, h: h * torch.ones(5, dtype=h.dtype).detach(),
    "a custom function": lambda self, h: Honest.apply(h),
    "an average before": followed,
    "a counter": noisy_buffer,
    "derivatives inside": lambda self, h: h + torch.autograd.grad((h**3).sum(), h, create_graph=True)[0],
    "detached features": lambda self, h: h * h.detach(),
    "a detached norm": lambda self, h: h / h.norm(dim=1, keepdim=True).detach(),
    "no_grad": lambda self, h: h + torch.no_grad()(lambda: self.a.weight.mean())(),
    "a number": lambda self, h: h / (1 + self.a.weight.norm().item()),
    "numpy": lambda self, h: h * float(np.abs(self.a.weight.detach().numpy()).mean()),
    "data": lambda self, h: h * self.a.weight.data.mean(),
    "straight through": lambda self, h: Rounded.apply(2 * h),
    "straight through by detach": lambda self, h: h + ((2 * h).round() - h).detach(),
    "once differentiable": lambda self, h: Once.apply(h),
    "a reversed gradient": lambda self, h: Reversed.apply(h),
    "an average of the batch itself": itself,
    "an average in numbers": in_numbers,
    "an average by numpy": by_numpy,
}
LOSSES = {
    "a detached weight": lambda o, t: squared(o, t) * squared(o, t).detach().sqrt(),
    "a detached target": lambda o, t: squared(o, (t + o.detach()) / 2),
    "a detached addend": lambda o, t: squared(o, t) + 3 * o.sum(1).detach(),
    "a scale by .item()": lambda o, t: squared(o, t) * (1 + t.abs().max().item() * 0),
    "ctc of raw scores": lambda o, t: F.ctc_loss(
        o.unsqueeze(0).expand(3, -1, -1), torch.ones(len(o), 1).long(), [3] * len(o), [1] * len(o),
        reduction="none",
    ),
    "ctc": lambda o, t: F.ctc_loss(
        o.log_softmax(1).unsqueeze(0).expand(3, -1, -1), torch.ones(len(o), 1).long(), [3] * len(o),
        [1] * len(o), reduction="none",
    ),
}  # fmt: skip
RIGHT = {  # these must not be refused
    "nothing", "a detached copy of a constant", "a custom function", "an average before", "a counter",
    "derivatives inside", "a scale by .item()", "ctc",
}  # fmt: skip


def workload(name):
    torch.manual_seed(2)
    model = Net(FEATURES.get(name, FEATURES["nothing"])).double()
    return ik.Workload(
        model=model, loss=LOSSES.get(name, squared), train=(X[:N], Y[:N]), test=(X[N:], Y[N:]),
        optimizer=ik.SGD(lr=0.1, momentum=0.5), epochs=2, batch_size=4,
    )  # fmt: skip


def hand(w, model, weights):
    """The mean test loss of a plain loop."""
    optimizer = torch.optim.SGD(model.train().parameters(), 0.1, momentum=0.5)
    for t in range(w.plan.steps):
        rows = w.plan.batch(t)
        optimizer.zero_grad()
        (w.loss(model(X[rows]), Y[rows]) * weights[rows]).mean().backward()
        optimizer.step()
    return w.loss(model.eval()(X[N:]), Y[N:]).mean().item()


def differences(name):
    """Minus the derivative of the mean test loss by each weight."""
    found, h = [], 1e-4
    for one in torch.eye(N, dtype=torch.float64):
        ends = [hand(w := workload(name), w.model, 1 + s * h * one) for s in (1, -1)]
        found.append(-(ends[0] - ends[1]) / (2 * h))
    return np.array(found)


@pytest.mark.parametrize("name", [*FEATURES, *LOSSES])
def test_first_order_scores_are_right_or_refused_in_one_line(name):
    try:
        scores = ik.estimate(ik.record(workload(name)), "test-loss", "dit").influence.values.ravel()
    except ik.InputError as error:
        assert "\n" not in str(error) and name not in RIGHT
        return
    wanted = differences(name)
    assert np.abs(wanted).max() > 1e-5
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", [*FEATURES, *LOSSES])
def test_retraining_is_right_or_refused_in_one_line(name):
    try:
        scores = ik.estimate(ik.record(workload(name)), "test-loss", "loo").influence.values.ravel()
    except ik.InputError as error:
        assert "\n" not in str(error) and name == "an average of the batch itself"
        return
    ones = torch.ones(N, dtype=torch.float64)
    values = [
        hand(w := workload(name), w.model, v) for v in (ones, *(ones - torch.eye(N, dtype=torch.float64)))
    ]
    wanted = np.array(values[1:]) - values[0]
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())


def test_another_query_of_a_loss_with_a_detached_addend_is_answered():
    """The training gradient is right, and so is the gradient of a prediction."""
    run = ik.record(workload("a detached addend"))
    without = ik.record(workload("nothing"))
    found = [ik.estimate(r, "prediction:example=1", "dit").influence.values for r in (run, without)]
    np.testing.assert_allclose(*found, rtol=1e-9)
    with pytest.raises(ik.InputError, match="not the derivative of its values"):
        ik.estimate(run, "test-losses", "dit")


def test_float32_models_are_looked_at_in_float64():
    w = workload("a detached weight").to(dtype=torch.float32)
    with pytest.raises(ik.InputError, match="autograd does not see"):
        ik.estimate(ik.record(w), "test-loss", "dit")
    assert np.isfinite(ik.estimate(ik.record(workload("nothing").to(dtype=torch.float32))).influence).all()


def test_a_loss_that_holds_float32_tensors_is_taken_as_it_is():
    w = workload("nothing").to(dtype=torch.float32)
    scale = torch.ones(2)

    def loss(outputs, target):  # torch refuses float64 outputs here
        return torch.matmul((outputs - target) ** 2, scale)

    object.__setattr__(w, "loss", loss)
    assert np.isfinite(ik.estimate(ik.record(w), "test-loss", "dit").influence).all()
    object.__setattr__(w, "loss", lambda o, t: loss(2 * o.detach() - o, t))
    with pytest.raises(ik.InputError, match="autograd does not see"):
        ik.estimate(ik.record(w), "test-loss", "dit")
