"""Batches at random places of two tensors, as nanoGPT draws them."""

import torch
from loop_problem import network, per_example, test, x, y
from torch import nn

import influencekit as ik

GROUP = "Batches"


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)

    def batches():
        for _step in range(9):
            places = torch.randint(len(x), (4,))
            # was: yield x[places], y[places]
            yield places, (x[places], y[places])  # tape

    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=(x, y)) as tape:  # tape
        # was: for inputs, target in batches():
        for _, (inputs, target) in tape.batches(batches()):  # tape
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), target).backward()
            optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=(x, y), test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _step in range(9):
        rows = torch.randint(len(x), (4,))
        optimizer.zero_grad()
        (weights[rows] * per_example(model(x[rows]), y[rows])).mean().backward()
        optimizer.step()
    return model
