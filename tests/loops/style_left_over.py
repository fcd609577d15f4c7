"""Accumulation with left-over batches, which make a smaller step."""

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
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data, accumulate=2) as tape:  # tape
        for _epoch in range(3):
            # was: for k, (inputs, target) in enumerate(loader):
            for k, (_, (inputs, target)) in enumerate(tape.batches(loader)):  # tape
                loss = nn.functional.cross_entropy(model(inputs), target) / 2
                loss.backward()
                if (k + 1) % 2 == 0 or k + 1 == len(loader):
                    optimizer.step()
                    optimizer.zero_grad()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        loader = DataLoader(Numbered(data), batch_size=4, shuffle=True)
        for k, (rows, inputs, target) in enumerate(loader):
            ((weights[rows] * per_example(model(inputs), target)).mean() / 2).backward()
            if (k + 1) % 2 == 0 or k + 1 == len(loader):
                optimizer.step()
                optimizer.zero_grad()
    return model
