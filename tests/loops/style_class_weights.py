"""Label smoothing and class weights, averaged as PyTorch averages them."""

import torch
from loop_problem import Numbered, data, network, test, x_test, y_test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Losses"
REPLAY = "\\d+ steps replayed, equal .*"


of_class = torch.tensor([1.0, 2.0, 3.0]).double()
losses = nn.CrossEntropyLoss(weight=of_class, label_smoothing=0.1, reduction="none")  # tape


def per_weight(batch):  # tape
    return 1 / of_class[batch[1]].sum()  # tape


def taped():
    model = network()
    criterion = nn.CrossEntropyLoss(weight=of_class, label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, reduction=per_weight, data=data) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                criterion(model(inputs), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * smoothed(model(inputs), target)).sum().div(of_class[target].sum()).backward()
            optimizer.step()
    return model


def smoothed(outputs, target):
    log = outputs.log_softmax(1)
    return -0.9 * of_class[target] * log[torch.arange(len(target)), target] - 0.1 * (of_class * log).mean(1)


def asked(model):
    with torch.no_grad():
        return smoothed(model(x_test), y_test).mean().item()
