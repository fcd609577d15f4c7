"""Epochs over a DataLoader that shuffles: SGD with momentum and weight decay."""

import torch
from loop_problem import N, data, network, per_example, test, x, y
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Loops"


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=0.01)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=0.01)
    loader = DataLoader(range(N), batch_size=4, shuffle=True)
    for _epoch in range(3):
        for rows in loader:
            optimizer.zero_grad()
            (weights[rows] * per_example(model(x[rows]), y[rows])).mean().backward()
            optimizer.step()
    return model
