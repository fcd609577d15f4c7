"""Accumulation that goes on into the next epoch."""

import torch
from loop_problem import Numbered, data, network, per_example, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Loops"


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    seen = 0
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data, accumulate=2) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                loss = nn.functional.cross_entropy(model(inputs), target) / 2
                loss.backward()
                seen += 1
                if seen % 2 == 0:
                    optimizer.step()
                    optimizer.zero_grad()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    seen = 0
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            ((weights[rows] * per_example(model(inputs), target)).mean() / 2).backward()
            seen += 1
            if seen % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
    return model
