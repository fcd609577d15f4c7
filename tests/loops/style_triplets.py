"""Triplets: anchor, positive, negative."""

import torch
from loop_problem import Numbered, x
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Losses"


triplets = TensorDataset(x, x.flip(0), x.flip(1))


class Encoder(nn.Linear):
    def __init__(self):
        torch.manual_seed(2)
        super().__init__(4, 3, dtype=torch.float64)


def codes(model, batch):
    return model(torch.cat(batch)).chunk(3)  # one call of the model


def margins(codes, target):
    anchor, positive, negative = codes
    return nn.functional.softplus(1 + (anchor - positive).norm(dim=1) - (anchor - negative).norm(dim=1))


def taped():
    model = Encoder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(triplets, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=margins, data=triplets, forward=codes) as tape:  # tape
        for _epoch in range(3):
            # was: for batch in loader:
            for _, batch in tape.batches(loader):  # tape
                optimizer.zero_grad()
                margins(codes(model, batch), None).mean().backward()
                optimizer.step()
    parts = {"model": Encoder(), "loss": margins, "data": triplets, "forward": codes}  # tape
    # was: return model
    return ik.open("run.zarr", **parts, test=triplets)  # tape


def plain(weights):
    model = Encoder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, *batch in DataLoader(Numbered(triplets), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * by_hand(model, batch)).mean().backward()
            optimizer.step()
    return model


def by_hand(model, batch):
    anchor, positive, negative = (model(part) for part in batch)
    far, near = (anchor - negative).norm(dim=1), (anchor - positive).norm(dim=1)
    return nn.functional.softplus(1 + near - far)


def asked(model):
    with torch.no_grad():
        return by_hand(model, triplets.tensors).mean().item()
