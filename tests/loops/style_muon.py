"""Muon for matrices.

Muon rounds to bfloat16, so that derivatives of it hold to some percent; `loo` has every digit.
"""

import torch
from loop_problem import Numbered, data, per_example, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Optimizers and schedules"
FLOAT32 = True
H = 0.2


def matrices():
    torch.manual_seed(2)
    layers = [nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False)]
    return nn.Sequential(*layers).double()


def taped():
    model = matrices()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.Muon(model.parameters(), lr=0.05)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=matrices(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = matrices()
    optimizer = torch.optim.Muon(model.parameters(), lr=0.05)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
    return model
