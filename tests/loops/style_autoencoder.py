"""An autoencoder: TensorDataset(x), whose batch is input and target."""

import torch
from loop_problem import x
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Data"
H = 1e-05


def autoencoder():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 4)).double()


def squares(outputs, inputs):
    return ((outputs - inputs) ** 2).sum(1)


def taped():
    model = autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    images = TensorDataset(x)
    loader = DataLoader(images, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=squares, data=images) as tape:  # tape
        for _epoch in range(3):
            # was: for (inputs,) in loader:
            for _, (inputs,) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                squares(model(inputs), inputs).mean().backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=autoencoder(), loss=squares, data=images, test=images)  # tape


def plain(weights):
    model = autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _epoch in range(3):
        for rows in DataLoader(range(12), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * ((model(x[rows]) - x[rows]) ** 2).sum(1)).mean().backward()
            optimizer.step()
    return model


def asked(model):
    with torch.no_grad():
        return ((model(x) - x) ** 2).sum(1).mean().item()
