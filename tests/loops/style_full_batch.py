"""All examples in every step, without a loader."""

import torch
from loop_problem import data, network, per_example, test, x, y
from torch import nn

import influencekit as ik

GROUP = "Batches"


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for _step in range(8):
            # was: for inputs, target in [(x, y)]:
            for _, (inputs, target) in tape.batches([(range(len(x)), (x, y))]):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _step in range(8):
        optimizer.zero_grad()
        (weights * per_example(model(x), y)).mean().backward()
        optimizer.step()
    return model
