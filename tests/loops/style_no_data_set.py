"""No data set at all: examples are made as the loop goes, and have names."""

import torch
from loop_problem import network, per_example, test, x, y
from torch import nn

import influencekit as ik

GROUP = "Data"
IDS = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"]


def batches():
    for _epoch in range(3):
        for rows in torch.randperm(len(x)).split(4):
            noisy = x[rows] + 0.1 * torch.randn(len(rows), 4).double()
            yield [str(i) for i in rows.tolist()], (noisy, y[rows])


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=None) as tape:  # tape
        # was: for _, (inputs, target) in batches():
        for _, (inputs, target) in tape.batches(batches()):  # tape
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), target).backward()
            optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for names, (inputs, target) in batches():
        rows = [int(name) for name in names]
        optimizer.zero_grad()
        (weights[rows] * per_example(model(inputs), target)).mean().backward()
        optimizer.step()
    return model
