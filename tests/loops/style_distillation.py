"""Distillation from a frozen teacher."""

import torch
from loop_problem import Numbered, data, network, per_example, test, x_test, y_test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Losses"


def divergence(outputs, wanted):
    return nn.functional.kl_div(outputs.log_softmax(1), wanted.softmax(1), reduction="none").sum(1)


def taped():
    model, teacher = network(), nn.Linear(4, 3).double().requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(data, batch_size=4, shuffle=True)

    def distilled(outputs, target, batch):  # tape
        losses = nn.functional.cross_entropy(outputs, target, reduction="none")  # tape
        return losses + divergence(outputs, teacher(batch[0]))  # tape

    with ik.Tape("run.zarr", model, optimizer, loss=distilled, data=data) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                outputs = model(inputs)
                losses = nn.functional.cross_entropy(outputs, target, reduction="none")
                (losses + divergence(outputs, teacher(inputs))).mean().backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=distilled, data=data, test=test)  # tape


def plain(weights):
    model, teacher = network(), nn.Linear(4, 3).double().requires_grad_(False)
    model.teacher = [teacher]  # for `asked`, and no part of the model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * by_hand(model, inputs, target)).mean().backward()
            optimizer.step()
    return model


def by_hand(model, inputs, target):
    outputs, wanted = model(inputs), model.teacher[0](inputs).softmax(1)
    return per_example(outputs, target) - (wanted * (outputs.log_softmax(1) - wanted.log())).sum(1)


def asked(model):
    with torch.no_grad():
        return by_hand(model, x_test, y_test).mean().item()
