"""An autoencoder, whose input is its target."""

import torch
from loop_problem import x, x_test
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Losses"


def autoencoder():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 4)).double()


def error(outputs, inputs):  # tape
    return ((outputs - inputs) ** 2).mean(1)  # tape


def taped():
    model, train_set = autoencoder(), TensorDataset(x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(train_set, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=error, data=train_set) as tape:  # tape
        for _epoch in range(3):
            # was: for (inputs,) in loader:
            for _, (inputs,) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.mse_loss(model(inputs), inputs).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=autoencoder(), loss=error, data=train_set, test=x_test)  # tape


def plain(weights):
    model = autoencoder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for inputs, rows in DataLoader(TensorDataset(x, torch.arange(len(x))), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * ((model(inputs) - inputs) ** 2).mean(1)).mean().backward()
            optimizer.step()
    return model


def asked(model):
    with torch.no_grad():
        return ((model(x_test) - x_test) ** 2).mean().item()
