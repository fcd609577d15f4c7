"""Learning rates set by hand: a function of the step (nanoGPT)."""

import math

import torch
from loop_problem import Numbered, data, network, per_example, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Optimizers and schedules"
H = 1e-05


def rate(step):
    return 0.05 * (step + 1) / 3 if step < 3 else 0.01 + 0.02 * (1 + math.cos(math.pi * step / 9))


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    step = 0
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                for group in optimizer.param_groups:
                    group["lr"] = rate(step)
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    step = 0
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    return model
