"""EMA of the weights: AveragedModel, updated after every step."""

import torch
from loop_problem import Numbered, data, network, per_example, test
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Averaged and best weights"


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for _epoch in range(4):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
                ema.update_parameters(model)
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _epoch in range(4):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
            ema.update_parameters(model)
    return ema.module


def ask(run, estimator):
    return ik.estimate(run, "test-loss", estimator, average="ema:decay=0.9")
