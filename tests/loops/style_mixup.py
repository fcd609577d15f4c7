"""Mixup.

Each example's terms of the loss have its mixing weight. Without an example its terms go, and its pixels
stay where they are mixed.

A batch holds each example and its partner, so that both have their own terms.
"""

import numpy as np
import torch
from loop_problem import data, network, per_example, test, x, y
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

import influencekit as ik

GROUP = "Losses"


class Partners(BatchSampler):
    def __iter__(self):
        for rows in super().__iter__():
            yield rows + [rows[i] for i in torch.randperm(len(rows))]


def mixed(model, batch):
    inputs, target = batch
    if not model.training:
        return model(inputs), torch.ones(len(inputs)).double()
    n, share = len(inputs) // 2, np.random.beta(0.4, 0.4)
    logits = model(share * inputs[:n] + (1 - share) * inputs[n:])
    weights = torch.tensor([share] * n + [1 - share] * n, dtype=logits.dtype)
    return torch.cat([logits, logits]), 2 * weights


def weighted(outputs, target):
    logits, weights = outputs
    return weights * nn.functional.cross_entropy(logits, target, reduction="none")


def taped():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(data, batch_sampler=Partners(RandomSampler(data), 4, False))
    parts = {"loss": weighted, "data": data, "forward": mixed}  # tape
    with ik.Tape("run.zarr", model, optimizer, **parts, separable=False) as tape:  # tape
        for _epoch in range(3):
            # was: for batch in loader:
            for _, batch in tape.batches(loader):  # tape
                optimizer.zero_grad()
                weighted(mixed(model, batch), batch[1]).mean().backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), **parts, test=test)  # tape


def plain(weights):
    """As it is usually written, on the same random numbers."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        loader = DataLoader(data, batch_sampler=Partners(RandomSampler(data), 4, False))
        torch.empty((), dtype=torch.int64).random_()  # the seed of its workers
        for rows in loader.batch_sampler:
            rows, partners = rows[: len(rows) // 2], rows[len(rows) // 2 :]
            share = np.random.beta(0.4, 0.4)
            optimizer.zero_grad()
            logits = model(share * x[rows] + (1 - share) * x[partners])
            own = weights[rows] * per_example(logits, y[rows])
            other = weights[partners] * per_example(logits, y[partners])
            (share * own + (1 - share) * other).mean().backward()
            optimizer.step()
    return model
