"""x / 255 in the loop."""

import torch
from loop_problem import Numbered, network, per_example, x, y
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Data"


pixels = TensorDataset(x.mul(50).add(128).to(torch.uint8), y)


def scaled(model, batch):  # tape
    return model(batch[0].double() / 255)  # tape


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(pixels, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=pixels, forward=scaled) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs.double() / 255), target).backward()
                optimizer.step()
    parts = {"model": network(), "loss": losses, "data": pixels, "forward": scaled}  # tape
    # was: return model
    return ik.open("run.zarr", **parts, test=pixels)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(pixels), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs.double() / 255), target)).mean().backward()
            optimizer.step()
    return model


def asked(model):
    with torch.no_grad():
        return per_example(model(pixels.tensors[0].double() / 255), y).mean().item()
