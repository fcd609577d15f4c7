"""Running statistics, and every other buffer that training changes, are part of the run.

Against torch's own layers, and against plain loops: `loo` with weight 0 on an example, `dit` by central
differences.
"""

import copy
from contextlib import nullcontext
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import influencekit as ik
from influencekit.buffers import by_formula, flat, packed, seen_through, unpacked, with_flat
from influencekit.functional import called

NONE = nn.CrossEntropyLoss(reduction="none")

# layers ---------------------------------------------------------------------------------------------------

NORMS = {
    "batch 1d": (nn.BatchNorm1d, (3,)),
    "batch 1d on sequences": (nn.BatchNorm1d, (3, 4)),
    "batch 2d": (nn.BatchNorm2d, (3, 2, 2)),
    "batch 3d": (nn.BatchNorm3d, (3, 2, 1, 2)),
    "instance 1d": (nn.InstanceNorm1d, (3, 4)),
    "instance 2d": (nn.InstanceNorm2d, (3, 2, 2)),
    "instance 3d": (nn.InstanceNorm3d, (3, 2, 1, 2)),
}
OPTIONS = [
    dict(momentum=momentum, affine=affine, track_running_stats=track, eps=eps)
    for momentum, affine, track, eps in [
        (0.1, True, True, 1e-5), (0.4, False, True, 1e-2), (None, True, True, 1e-5), (0.1, True, False, 1e-5),
    ]
]  # fmt: skip


@pytest.mark.parametrize("within", [by_formula, seen_through])
@pytest.mark.parametrize("mode, n", [(True, 2), (True, 5), (False, 2), (False, 1)])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()))
@pytest.mark.parametrize("name", NORMS)
def test_norms_by_formula_are_torchs(name, options, mode, n, within):
    make, shape = NORMS[name]
    if mode is False and n == 1 and not options["track_running_stats"] and shape == (3,):
        pytest.skip("torch refuses it: one value per channel")
    if options["momentum"] is None and name.startswith("instance") and mode:
        pytest.skip("torch refuses it")
    torch.manual_seed(n)
    layer = make(3, **options).double().train(mode)
    for x in (*layer.parameters(), *(b for b in layer.buffers() if b.is_floating_point())):
        nn.init.uniform_(x, 0.5, 2.0)
    other = copy.deepcopy(layer)
    for seed in range(3):  # statistics of three batches
        x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        wanted = layer(x)
        with within():
            found = other(x)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
        for (which, a), b in zip(other.named_buffers(), layer.buffers(), strict=True):
            torch.testing.assert_close(a.detach(), b, rtol=1e-12, atol=1e-14, msg=which)


def test_one_value_per_channel_is_refused_as_by_torch():
    layer = nn.BatchNorm1d(3)
    for within in (nullcontext, by_formula, seen_through):
        with within(), pytest.raises(ValueError, match="more than 1 value per channel"):
            layer(torch.ones(1, 3))


def test_packed_buffers_come_back():
    buffers = {"a": torch.randn(2, 3), "steps": torch.tensor(2**40), "b": torch.randn(2).double()}
    row = packed(buffers)
    for name, x in unpacked(row, buffers).items():
        assert torch.equal(x, buffers[name]) and x.dtype == buffers[name].dtype
    values = torch.arange(8.0).double()
    assert torch.equal(flat(with_flat(buffers, values), values), values)


class Anew(nn.Module):
    """Buffers changed in place and assigned anew."""

    def __init__(self):
        super().__init__()
        self.norm, self.lin = nn.BatchNorm1d(3), nn.Linear(3, 3)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("kept", torch.ones(3))

    def forward(self, x):
        x = self.lin(self.norm(x))
        self.mean = 0.5 * self.mean + 0.5 * x.detach().mean(0)
        self.steps += 1
        self.kept.mul_(2)
        return x + self.mean


@pytest.mark.parametrize("given", [[], ["mean"], ["mean", "steps", "kept", "norm.running_mean"]])
def test_a_call_touches_nothing_of_the_model(given):
    model = Anew()
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = {k: x.detach().clone() for k, x in own.items()}
    buffers = {k: own[k].clone() + 1 for k in given}
    put = {k: x.clone() for k, x in buffers.items()}
    parameters = {k: p.detach() * 2 for k, p in model.named_parameters()}
    _, after = called(model, parameters, buffers, lambda m: m(torch.ones(4, 3) * torch.arange(4.0)[:, None]))
    mine = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert list(mine) == list(own)
    for name, x in mine.items():
        assert x is own[name] and torch.equal(x, before[name]), name
    assert all(torch.equal(buffers[k], put[k]) for k in put)
    assert list(after) == given and not any(torch.equal(after[k], put[k]) for k in given)


# runs -----------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a, self.n = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)
        self.b, self.m = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c, momentum=0.3)

    def forward(self, x):
        return F.gelu(x + self.m(self.b(F.gelu(self.n(self.a(x))))))


def resnet():
    stem = [nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.GELU(), Block(3)]
    return nn.Sequential(*stem, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))


def small(*layers):
    return lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(16, 6), *(make() for make in layers), nn.Linear(6, 3)
    )


class Smoothed(nn.Module):
    """An average of features, kept under no_grad, which evaluation subtracts; and a counter that scales."""

    def __init__(self, scaled=False):
        super().__init__()
        self.lin, self.head, self.scaled = nn.Linear(16, 6), nn.Linear(6, 3), scaled
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        h = torch.tanh(self.lin(x.flatten(1)))
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.7).add_(h.mean(0), alpha=0.3)
            self.steps += 1
        else:
            h = h - self.mean
        return self.head(h) / (1 + 0.1 * self.steps if self.scaled else 1)


class Reads(Smoothed):
    """The loss reads the average of the steps before, too."""

    def forward(self, x):
        h = torch.tanh(self.lin(x.flatten(1)))
        before = self.mean.clone()
        if self.training:
            with torch.no_grad():
                self.mean.copy_(0.7 * self.mean + 0.3 * h.mean(0))
        return self.head(h - before)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin, self.head = nn.Linear(16, 12), nn.Linear(12, 3)
        self.norm = nn.InstanceNorm1d(3, affine=True, track_running_stats=True)

    def forward(self, x):
        return self.head(self.norm(self.lin(x.flatten(1)).view(-1, 3, 4)).flatten(1))


MODELS = {
    "resnet": resnet,
    "mlp": small(lambda: nn.BatchNorm1d(6), nn.GELU),
    "cumulative": small(lambda: nn.BatchNorm1d(6, momentum=None), nn.Tanh),
    "instance": Normed,
    "spectral": lambda: small(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)), nn.Tanh)(),
    "average in evaluation": Smoothed,
    "counter": lambda: Smoothed(True),
    "average in the loss": Reads,
}
N, TEST, SIZE, EPOCHS = 15, 8, 4, 3  # the last batch of an epoch has three


def examples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N + TEST, 1, 4, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (N + TEST,), generator=generator)


X, Y = examples()


def built(name):
    torch.manual_seed(3)
    return MODELS[name]().double()


OPTIMIZERS = {
    "sgd": (ik.SGD(lr=0.05, momentum=0.9), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
    "adam": (ik.Adam(lr=0.01, eps=1e-4), lambda p: torch.optim.Adam(p, 0.01, eps=1e-4)),
}
ORDER = ik.Workload(
    model=nn.Linear(1, 1), loss=NONE, train=(X[:N], Y[:N]), test=(X[N:], Y[N:]), optimizer=ik.SGD(lr=1.0),
    epochs=EPOCHS, batch_size=SIZE, seed=1,
).plan  # fmt: skip


def hand(name, optimizer, without, parts=1, span=None, stops=None):
    """Mean test losses at the states `stops` of a plain loop that weights losses by 1 - `without` [train] in
    the steps `span`; each step in `parts` micro-batches."""
    model, span, stops = built(name), span or (0, ORDER.steps), stops or [ORDER.steps]
    optimizer, found = OPTIMIZERS[optimizer][1](model.parameters()), {}
    for t in range(ORDER.steps + 1):
        if t in stops:
            model.eval()
            with torch.no_grad():
                found[t] = NONE(model(X[N:]), Y[N:]).mean().item()
        if t == ORDER.steps:
            return [found[stop] for stop in stops]
        model.train()
        optimizer.zero_grad()
        rows, weights = ORDER.batch(t), 1 - without * (span[0] <= t < span[1])
        for some in rows.chunk(parts):
            ((NONE(model(X[some]), Y[some]) * weights[some]).mean() / parts).backward()
        optimizer.step()


def recorded(name, optimizer):
    return ik.record(
        ik.Workload(
            model=built(name), loss=NONE, train=(X[:N], Y[:N]), test=(X[N:], Y[N:]),
            optimizer=OPTIMIZERS[optimizer][0], epochs=EPOCHS, batch_size=SIZE, seed=1,
        )
    )  # fmt: skip


def taped(name, optimizer, parts=1):
    model = built(name)
    opt = OPTIMIZERS[optimizer][1](model.parameters())
    data = TensorDataset(X[:N], Y[:N])
    model.train()
    micros = [some for t in range(ORDER.steps) for some in ORDER.batch(t).chunk(parts)]
    with ik.Tape(None, model, opt, loss=NONE, data=data, recorder="every-k:k=3", accumulate=parts) as tape:
        pairs = tape.batches([(some.tolist(), [X[some], Y[some]]) for some in micros])
        for k, (_, (x, y)) in enumerate(pairs):
            (NONE(model(x), y).mean() / parts).backward()
            if (k + 1) % parts == 0:
                opt.step()
                opt.zero_grad()
    return tape.trajectory(test=(X[N:], Y[N:]))


def scores(run, estimator, **options):
    return ik.estimate(run, "test-loss", estimator, **options).influence.values.ravel()


def one(j, size=1.0):
    return torch.zeros(N, dtype=torch.float64).index_fill_(0, torch.tensor(j), size)


def close(found, wanted, tolerance):
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert np.abs(wanted).max() > 1e-6
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


PICKED = [0, 7, 14]
RUNS = [
    *product(MODELS, ["record", "tape"], ["sgd"]),
    ("resnet", "record", "adam"), ("mlp", "tape", "adam"),
    ("resnet", "in parts", "sgd"), ("average in the loss", "in parts", "sgd"),
]  # fmt: skip


@pytest.mark.parametrize("name, by, optimizer", RUNS, ids=" ".join)
def test_scores_go_through_the_buffers(name, by, optimizer):
    parts = 2 if by == "in parts" else 1
    run = recorded(name, optimizer) if by == "record" else taped(name, optimizer, parts)

    def value(without):
        return hand(name, optimizer, without, parts)[0]

    base, h = value(one(0, 0.0)), 1e-4
    close(scores(run, "loo")[PICKED], [value(one(j)) - base for j in PICKED], 1e-9)
    derivative = [(value(one(j, h)) - value(one(j, -h))) / (2 * h) for j in PICKED]
    close(scores(run, "dit")[PICKED], derivative, 1e-5)
