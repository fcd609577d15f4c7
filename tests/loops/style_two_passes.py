"""Two passes of the model in a step: a Siamese network."""

import torch
from loop_problem import Numbered, network, x, y
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Models"


pairs = TensorDataset(x, x.flip(0), (y == y.flip(0)).double())


def distances(outputs, same):
    d = (outputs[0] - outputs[1]).pow(2).sum(1)
    return same * d + (1 - same) * torch.exp(-d)


def both(model, batch):  # tape
    return model(batch[0]), model(batch[1])  # tape


def taped():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(pairs, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=distances, data=pairs, forward=both) as tape:  # tape
        for _epoch in range(3):
            # was: for left, right, same in loader:
            for _, (left, right, same) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                outputs = model(left), model(right)
                distances(outputs, same).mean().backward()
                optimizer.step()
    parts = {"model": network(), "loss": distances, "data": pairs, "forward": both}  # tape
    # was: return model
    return ik.open("run.zarr", **parts, test=pairs)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, left, right, same in DataLoader(Numbered(pairs), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * distances((model(left), model(right)), same)).mean().backward()
            optimizer.step()
    return model


def asked(model):
    with torch.no_grad():
        return distances((model(x), model(x.flip(0))), pairs.tensors[2]).mean().item()
