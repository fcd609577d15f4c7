"""Steps instead of epochs: next(batches), and the loader anew when it ends."""

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
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        # was: batches = iter(loader)
        batches = iter(tape.batches(loader))  # tape
        for _step in range(8):
            try:
                # was: inputs, target = next(batches)
                _, (inputs, target) = next(batches)  # tape
            except StopIteration:
                # was: batches = iter(loader)
                batches = iter(tape.batches(loader))  # tape
                # was: inputs, target = next(batches)
                _, (inputs, target) = next(batches)  # tape
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), target).backward()
            optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(Numbered(data), batch_size=4, shuffle=True)
    batches = iter(loader)
    for _step in range(8):
        try:
            rows, inputs, target = next(batches)
        except StopIteration:
            batches = iter(loader)
            rows, inputs, target = next(batches)
        optimizer.zero_grad()
        (weights[rows] * per_example(model(inputs), target)).mean().backward()
        optimizer.step()
    return model
