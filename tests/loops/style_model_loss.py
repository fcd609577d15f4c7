"""A model that computes its own loss: model(x, y)."""

import torch
from loop_problem import Numbered, data, network, per_example, test, test_loss
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Losses"


class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = network()

    def forward(self, inputs, target):
        return nn.functional.cross_entropy(self.layers(inputs), target)


losses = nn.CrossEntropyLoss(reduction="none")  # tape


def logits(model, batch):  # tape
    return model.layers(batch[0])  # tape


def taped():
    model = WithLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data, forward=logits) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                model(inputs, target).backward()
                optimizer.step()
    parts = {"model": WithLoss(), "loss": losses, "data": data, "forward": logits}  # tape
    # was: return model
    return ik.open("run.zarr", **parts, test=test)  # tape


def plain(weights):
    model = WithLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model.layers(inputs), target)).mean().backward()
            optimizer.step()
    return model


def asked(model):
    return test_loss(model.layers)
