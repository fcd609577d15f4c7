"""A split: random_split, and a loader over one part."""

import torch
from loop_problem import Numbered, data, network, per_example, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Data"


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    train_set, rest = torch.utils.data.random_split(data, [9, 3])
    loader = DataLoader(train_set, batch_size=3, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=train_set) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=train_set, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    train_set, rest = torch.utils.data.random_split(data, [9, 3])
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(train_set), batch_size=3, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
    return model
