"""A data set that gives (x, y, index)."""

import torch
from loop_problem import Numbered, data, network, per_example, x, y
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Data"


seen = torch.zeros(12).double()


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    train_set = TensorDataset(x, y, torch.arange(12))
    loader = DataLoader(train_set, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=train_set) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target, index in loader:
            for _, (inputs, target, index) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                every = nn.functional.cross_entropy(model(inputs), target, reduction="none")
                seen[index] += every.detach()
                every.mean().backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=train_set, test=train_set)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
    return model


def asked(model):
    with torch.no_grad():
        return per_example(model(x), y).mean().item()
