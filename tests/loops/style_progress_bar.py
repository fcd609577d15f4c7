"""A progress bar around the loader: tqdm(loader), its length, enumerate."""

import torch
from loop_problem import Numbered, data, network, per_example, test
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import influencekit as ik

GROUP = "Loops"
NEEDS = ("tqdm",)


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for epoch in range(3):
            bar = tqdm(loader, desc=f"epoch {epoch}", disable=True)
            # was: for step, (inputs, target) in enumerate(bar):
            for step, (_, (inputs, target)) in enumerate(tape.batches(bar)):  # tape
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(inputs), target)
                loss.backward()
                optimizer.step()
                bar.set_postfix(loss=loss.item(), done=step / len(loader))
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
    return model
