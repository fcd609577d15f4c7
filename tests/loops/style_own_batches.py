"""Batches of one's own making: a permutation that is cut."""

import torch
from loop_problem import data, network, per_example, test, x, y
from torch import nn

import influencekit as ik

GROUP = "Batches"


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for _epoch in range(3):
            cuts = torch.randperm(len(x)).split(4)
            # was: for inputs, target in ((x[i], y[i]) for i in cuts):
            for _, (inputs, target) in tape.batches((i, (x[i], y[i])) for i in cuts):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows in torch.randperm(len(x)).split(4):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(x[rows]), y[rows])).mean().backward()
            optimizer.step()
    return model
