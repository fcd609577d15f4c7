"""Clipping by the largest entry of the gradient, norm_type=inf."""

import math

import torch
from loop_problem import Numbered, data, network, per_example, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Loops"


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    clip = {"clip_norm": 0.1, "clip_norm_type": math.inf}  # tape
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data, **clip) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.1, norm_type=math.inf)
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1, norm_type=math.inf)
            optimizer.step()
    return model
