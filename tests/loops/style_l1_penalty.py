"""An L1 penalty, added to the loss."""

import torch
from loop_problem import Numbered, data, network, per_example, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Losses"
REPLAY = "\\d+ steps replayed, equal .*"


def l1(model):
    return 0.01 * sum(p.abs().sum() for p in model.parameters())


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data, penalty=l1) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(inputs), target)
                (loss + l1(model)).backward()
                optimizer.step()
    parts = {"model": network(), "loss": losses, "data": data, "penalty": l1}  # tape
    # was: return model
    return ik.open("run.zarr", **parts, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            loss = (weights[rows] * per_example(model(inputs), target)).mean()
            (loss + 0.01 * sum(p.abs().sum() for p in model.parameters())).backward()
            optimizer.step()
    return model
