"""Runs of small models whose training changes buffers: by record, by tape, and by a plain loop."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import influencekit as ik

NONE = nn.CrossEntropyLoss(reduction="none")


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

PER_EPOCH = ORDER.steps // EPOCHS


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
    epochs = [range(t, t + PER_EPOCH) for t in range(0, ORDER.steps, PER_EPOCH)]
    with ik.Tape(None, model, opt, loss=NONE, data=data, recorder="every-k:k=3", accumulate=parts) as tape:
        for epoch in epochs:
            micros = [some for t in epoch for some in ORDER.batch(t).chunk(parts)]
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
