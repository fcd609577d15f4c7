"""Regression: the mean of squares over a batch and its outputs."""

import torch
from loop_problem import Numbered, x
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Losses"
H = 1e-05
REPLAY = "\\d+ steps replayed, equal .*"


pairs = TensorDataset(x, torch.stack([x.sum(1).sin(), x[:, 0] * x[:, 1]], 1))


def squares(outputs, target):  # tape
    return ((outputs - target) ** 2).mean(1)  # tape


def taped():
    model = nn.Linear(4, 2).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    loader = DataLoader(pairs, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=squares, data=pairs) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.mse_loss(model(inputs), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=nn.Linear(4, 2).double(), loss=squares, data=pairs, test=pairs)  # tape


def plain(weights):
    model = nn.Linear(4, 2).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(pairs), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * ((model(inputs) - target) ** 2).mean(1)).mean().backward()
            optimizer.step()
    return model


def asked(model):
    with torch.no_grad():
        return ((model(x) - pairs.tensors[1]) ** 2).mean().item()
