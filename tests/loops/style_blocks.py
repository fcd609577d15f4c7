"""An epoch a function call: one tape, entered several times."""

import torch
from loop_problem import Numbered, data, network, per_example, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Runs that go on"
H = 1e-05
REPLAY = "\\d+ steps replayed, equal bit for bit"


def train_one_epoch(model, optimizer, batches):
    # was: for inputs, target in batches:
    for _, (inputs, target) in batches:  # tape
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), target).backward()
        optimizer.step()


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    tape = ik.Tape("run.zarr", model, optimizer, loss=losses, data=data)  # tape
    for _epoch in range(3):
        with tape:  # tape
            # was: train_one_epoch(model, optimizer, loader)
            train_one_epoch(model, optimizer, tape.batches(loader))  # tape
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    loader = DataLoader(Numbered(data), batch_size=4, shuffle=True)
    for _epoch in range(3):
        for rows, inputs, target in loader:
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
    return model
