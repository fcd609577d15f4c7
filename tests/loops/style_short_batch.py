"""A short last batch, and loaders that change with the epoch."""

import torch
from loop_problem import Numbered, data, network, per_example, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Batches"


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for epoch in range(3):
            loader = DataLoader(data, batch_size=5 - epoch, shuffle=True, drop_last=epoch == 2)
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for epoch in range(3):
        loader = DataLoader(Numbered(data), batch_size=5 - epoch, shuffle=True, drop_last=epoch == 2)
        for rows, inputs, target in loader:
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
    return model
