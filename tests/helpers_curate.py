"""A small problem for curation: two classes that a line separates, some of whose labels are wrong."""

from dataclasses import dataclass

import torch
from torch import nn

import influencekit as ik

N, TRUSTED, FLIPPED = 60, 240, 6
KS = (1, 3, 6, 12)
per_example = nn.CrossEntropyLoss(reduction="none")


def sample(n, seed):
    """Two classes that a line separates, up to noise, in float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    return x, (x @ torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64) + 0.3 * noise > 0).long()


def training(flipped=FLIPPED):
    """The training examples, of which the first ones have the other label."""
    x, y = sample(N, 0)
    y[:flipped] = 1 - y[:flipped]
    return x, y


def linear():
    model = nn.Linear(3, 2).double()
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p, std=0.01, generator=generator)
    return model


def workload(flipped=FLIPPED, **changes):
    given = {
        "model": linear(), "loss": per_example, "train": training(flipped), "test": sample(TRUSTED, 1),
        "optimizer": ik.SGD(lr=0.5), "epochs": 6, "batch_size": 10,
        "train_ids": [f"row, {k}" for k in range(N)],
    }  # fmt: skip
    return ik.Workload(**given | changes)


def taped(test, store=None):
    """The same training as a loop of the user's own, under a tape."""
    model, data = linear(), torch.utils.data.TensorDataset(*training())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    order = workload().plan.indices
    with ik.Tape(store, model, optimizer, loss=per_example, data=data) as tape:
        for epoch in order.split(6):
            loader = torch.utils.data.DataLoader(data, batch_sampler=epoch.tolist())
            for _, (x, y) in tape.batches(loader):
                optimizer.zero_grad()
                per_example(model(x), y).mean().backward()
                optimizer.step()
    return None if store else tape.trajectory(test=test)


def losses_without(gone):
    """Losses [trusted] after a plain loop on the same batches, with the examples `gone` masked."""
    model, (x, y), test = linear(), training(), sample(TRUSTED, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    stays = torch.ones(N, dtype=torch.float64)
    stays[list(gone)] = 0
    for batch in workload().plan.indices:
        optimizer.zero_grad()
        ((stays[batch] * per_example(model(x[batch]), y[batch])).sum() / len(batch)).backward()
        optimizer.step()
    with torch.no_grad():
        return per_example(model(test[0]), test[1]).numpy()


@dataclass(frozen=True)
class Chance(ik.Estimator):
    """Scores that mean nothing."""

    seed: int = 0

    @property
    def claims(self):
        return frozenset({ik.Claim.WINDOWED})

    def scores(self, trajectory, query, windows):
        generator = torch.Generator().manual_seed(self.seed)
        n = len(query.labels(trajectory.workload)), len(windows), trajectory.workload.n_train
        return torch.randn(*n, generator=generator, dtype=torch.float64)


def few(n):
    x, y = sample(TRUSTED, 1)
    return x[:n], y[:n]


def mixed(copies):
    """Trusted examples of which some are training examples."""
    return tuple(torch.cat([a[:copies], b[copies:]]) for a, b in zip(training(), few(TRUSTED), strict=True))


def other_classes():
    """Trusted examples of which three have a label that no training example has."""
    x, y = few(TRUSTED)
    return x, torch.where(torch.arange(TRUSTED) < 3, 7, y)
