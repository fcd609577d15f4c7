"""Augmentation from a generator of its own."""

import numpy as np
import torch
from loop_problem import network, test, x, y
from torch import nn
from torch.utils.data import DataLoader, Dataset

import influencekit as ik

GROUP = "Data"
REFUSED = (
    "step 0, replayed, is not what the loop did: parameter 0.weight differs by up to 5.32e-03, where the "
    "recorded update is up to 2.45e-02; the model gave the loop other outputs (mean loss 1.142, replayed "
    "1.15): did it forward the batch as it came? What the loop does to it belongs into the data set, "
    "collate= or forward=, and random numbers from a generator of its own into torch's"
)


class Noisy(Dataset):
    def __init__(self):
        self.generator = np.random.default_rng(0)

    def __len__(self):
        return len(x)

    def __getitem__(self, i):
        return x[i] + 0.1 * torch.from_numpy(self.generator.normal(size=4)), y[i]


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
