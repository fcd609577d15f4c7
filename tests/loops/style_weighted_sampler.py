"""WeightedRandomSampler: with replacement, so that an example can stand twice in a batch."""

import torch
from loop_problem import Numbered, data, network, per_example, test, y
from torch import nn
from torch.utils.data import DataLoader, WeightedRandomSampler

import influencekit as ik

GROUP = "Batches"


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    often = torch.where(y == 0, 3.0, 1.0)
    sampler = WeightedRandomSampler(often, num_samples=16, replacement=True)
    loader = DataLoader(data, batch_size=4, sampler=sampler)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for _epoch in range(2):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    sampler = WeightedRandomSampler(torch.where(y == 0, 3.0, 1.0), num_samples=16, replacement=True)
    for _epoch in range(2):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, sampler=sampler):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
    return model
