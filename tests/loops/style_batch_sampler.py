"""A batch sampler: batches of similar examples."""

import torch
from loop_problem import Numbered, data, network, per_example, test, x
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Batches"


class Buckets:
    """Examples of similar size together, the buckets in random order."""

    def __iter__(self):
        buckets = x.norm(dim=1).argsort().split(4)
        return iter([buckets[i].tolist() for i in torch.randperm(len(buckets))])

    def __len__(self):
        return 3


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(data, batch_sampler=Buckets())
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for _epoch in range(3):
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
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_sampler=Buckets()):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
    return model
