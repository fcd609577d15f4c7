"""Weights of samples in the loss."""

import torch
from loop_problem import Numbered, network, per_example, x, y
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Losses"


train_set = TensorDataset(x, x[:, 0].exp(), y)


def weighted(outputs, target, batch):  # tape
    return batch[1] * nn.functional.cross_entropy(outputs, target, reduction="none")  # tape


told = {"loss": weighted, "forward": lambda model, batch: model(batch[0])}  # tape


def taped():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(train_set, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, data=train_set, **told) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, importance, target in loader:
            for _, (inputs, importance, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                losses = nn.functional.cross_entropy(model(inputs), target, reduction="none")
                (importance * losses).mean().backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), data=train_set, test=train_set, **told)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, inputs, importance, target in DataLoader(Numbered(train_set), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * importance * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
    return model


def asked(model):
    with torch.no_grad():
        return (train_set.tensors[1] * per_example(model(x), y)).mean().item()
