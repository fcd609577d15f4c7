"""Runs on small data, recorded and taped, and data sets of every kind that hold the same."""

from dataclasses import replace

import torch
from helpers_tape import network, per_example
from torch import nn
from torch.utils.data import DataLoader, Dataset

import influencekit as ik

N, TEST = 300, 20


def examples(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 4, generator=generator)
    return x, (x[:, 0] > 0).long()


def workload(**changes):
    x, y = examples()
    torch.manual_seed(0)
    made = ik.Workload(
        model=nn.Linear(4, 2), loss=per_example, train=(x, y), test=(x[:TEST].clone(), y[:TEST].clone()),
        optimizer=ik.SGD(lr=0.1), batch_size=50,
    )  # fmt: skip
    return replace(made, **changes)


def taped(path, data, model=None, loss=per_example, steps=3):
    model = network(torch.float32) if model is None else model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with ik.Tape(path, model, optimizer, loss=loss, data=data) as tape:
        for _, (x, y) in tape.batches(DataLoader(data, batch_size=100)):
            optimizer.zero_grad()
            loss(model(x), y).mean().backward()
            optimizer.step()
    return tape


def reopened(path, data, **changes):
    return ik.open(path, **{"model": network(torch.float32), "loss": per_example, "data": data, **changes})


class Fetched(Dataset):
    """The rows of tensors as somebody's own data set gives them."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class Frozen(nn.Module):
    """A model with a table of which the loop reads little."""

    def __init__(self, value=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.table = nn.Linear(4, 2), nn.Embedding(3000, 4)
        nn.init.ones_(self.table.weight)
        with torch.no_grad():
            self.table.weight[1234, 1] += value
        self.table.requires_grad_(False)

    def forward(self, x):
        return self.layer(x * self.table.weight[0])
