"""Augmentation of whole batches in the loop, as on a GPU."""

import torch
from loop_problem import Numbered, data, network, per_example, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Data"


def augment(inputs):
    flipped = torch.where(torch.rand(len(inputs), 1) < 0.5, inputs.flip(1), inputs)
    return flipped + 0.1 * torch.randn(inputs.shape).double()


def forward(model, batch):  # tape
    return model(augment(batch[0]) if model.training else batch[0])  # tape


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    parts = {"loss": losses, "data": data, "forward": forward}  # tape
    with ik.Tape("run.zarr", model, optimizer, **parts) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(augment(inputs)), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), **parts, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(augment(inputs)), target)).mean().backward()
            optimizer.step()
    return model
