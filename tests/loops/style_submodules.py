"""A loop that calls the parts of a model, not the model."""

import torch
from loop_problem import Numbered, data, network, per_example, test, x_test, y_test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Models"


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        layers = network()
        self.body, self.head = layers[:3], layers[3]


def forward(model, batch):  # tape
    return model.head(model.body(batch[0]))  # tape


def taped():
    model = Parts()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data, forward=forward) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                hidden = model.body(inputs)
                nn.functional.cross_entropy(model.head(hidden), target).backward()
                optimizer.step()
    parts = {"model": Parts(), "loss": losses, "data": data, "forward": forward}  # tape
    # was: return model
    return ik.open("run.zarr", **parts, test=test)  # tape


def plain(weights):
    model = Parts()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model.head(model.body(inputs)), target)).mean().backward()
            optimizer.step()
    return model


def asked(model):
    with torch.no_grad():
        return per_example(model.head(model.body(x_test)), y_test).mean().item()
