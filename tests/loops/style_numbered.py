"""A data set that numbers its examples."""

import torch
from loop_problem import network, per_example, test, x, y
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Data"


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    numbered = TensorDataset(x, y, torch.arange(len(x)))
    loader, seen = DataLoader(numbered, batch_size=4, shuffle=True), torch.zeros(len(x))
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=numbered) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target, index in loader:
            for _, (inputs, target, index) in tape.batches(loader):  # tape
                seen[index] += 1
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=numbered, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(TensorDataset(x, y, torch.arange(len(x))), batch_size=4, shuffle=True)
    for _epoch in range(3):
        for inputs, target, rows in loader:
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
    return model
