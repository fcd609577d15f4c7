"""Mining: only the hardest examples of a batch count.

The score of an example is that of its own loss: a removed example still takes part in the choice.
"""

import torch
from loop_problem import Numbered, data, network, per_example, x_test, y_test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Losses"
REPLAY = "\\d+ steps replayed, equal .*"


def hardest(outputs, target):  # tape
    every = nn.functional.cross_entropy(outputs, target, reduction="none")  # tape
    return every * torch.zeros_like(every).index_fill(0, every.topk(2).indices, 1.0)  # tape


def taped():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    told = {"loss": hardest, "separable": False, "reduction": lambda batch: 1 / 2}  # tape
    with ik.Tape("run.zarr", model, optimizer, data=data, **told) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                every = nn.functional.cross_entropy(model(inputs), target, reduction="none")
                every.topk(2).values.mean().backward()
                optimizer.step()
    test_batch = (x_test[:2], y_test[:2])
    # was: return model
    return ik.open("run.zarr", model=network(), loss=hardest, data=data, test=test_batch)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            every = per_example(model(inputs), target)
            (weights[rows] * every)[every.topk(2).indices].mean().backward()
            optimizer.step()
    return model


def asked(model):
    with torch.no_grad():
        return per_example(model(x_test[:2]), y_test[:2]).mean().item()
