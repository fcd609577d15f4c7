"""Random augmentation in the data set."""

import random

import numpy as np
import torch
from loop_problem import Numbered, network, per_example, test, x, y
from torch import nn
from torch.utils.data import DataLoader, Dataset

import influencekit as ik

GROUP = "Data"


class Noisy(Dataset):
    """Noise and a scale, anew whenever an example is fetched."""

    def __len__(self):
        return len(x)

    def __getitem__(self, i):
        scale = random.uniform(0.9, 1.1) * float(np.random.uniform(0.9, 1.1))
        return x[i] * scale + 0.1 * torch.randn(4).double(), y[i]


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    train_set = Noisy()
    loader = DataLoader(train_set, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=train_set) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=train_set, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(Noisy()), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
    return model
