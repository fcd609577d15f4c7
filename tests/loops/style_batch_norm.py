"""Batch norm.

The score of an example is that of its loss: a removed example still takes part in the statistics of its
batches.
"""

import torch
from loop_problem import Numbered, data, per_example, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Models"


def normed():
    torch.manual_seed(2)
    layers = [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)]
    return nn.Sequential(*layers).double()


def taped():
    model = normed()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=normed(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = normed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
    return model
