"""Inputs are scaled in the loop, as x / 255."""

import torch
from loop_problem import Numbered, network, per_example, x, x_test, y, y_test
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Data"


def pixels(x):
    return (128 + 40 * x).clamp(0, 255).to(torch.uint8)


train_set, test_set = TensorDataset(pixels(x), y), TensorDataset(pixels(x_test), y_test)


def forward(model, batch):  # tape
    return model(batch[0].double() / 255)  # tape


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(train_set, batch_size=4, shuffle=True)
    parts = {"loss": losses, "data": train_set, "forward": forward}  # tape
    with ik.Tape("run.zarr", model, optimizer, **parts) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs.double() / 255), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), **parts, test=test_set)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(train_set), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs.double() / 255), target)).mean().backward()
            optimizer.step()
    return model


def asked(model):
    with torch.no_grad():
        return per_example(model(test_set.tensors[0].double() / 255), y_test).mean().item()
