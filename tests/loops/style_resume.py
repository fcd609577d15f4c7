"""A run that is interrupted, and goes on where it was."""

import torch
from loop_problem import Numbered, data, network, per_example, seed, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Runs that go on"
H = 1e-05
REPLAY = "5 steps replayed, equal bit for bit"


losses = nn.CrossEntropyLoss(reduction="none")  # tape


def train(goes_down=False):
    seed()
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    options = {"loss": losses, "data": data, "scheduler": scheduler, "resume": True}  # tape
    with ik.Tape("run.zarr", model, optimizer, **options) as tape:  # tape
        for epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
                scheduler.step()
            if goes_down and epoch == 1:
                raise KeyboardInterrupt
    return model


def taped():
    try:
        train(goes_down=True)
    except KeyboardInterrupt:
        pass
    model = train()  # the same program again, later
    # was: return model
    return ik.open("run.zarr", model=model, loss=losses, data=data, test=test)  # tape


def plain(weights):
    seed()
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
            scheduler.step()
    return model
