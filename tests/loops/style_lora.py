"""A low-rank adapter on a frozen model (LoRA)."""

import torch
from loop_problem import Numbered, data, network, per_example, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Models"
H = 1e-05


class Adapter(nn.Module):
    def __init__(self, layer, rank=2):
        super().__init__()
        torch.manual_seed(2)
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, layer.in_features).double())
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank).double())

    def forward(self, x):
        return self.layer(x) + x @ self.down.mT @ self.up.mT


def adapted():
    return nn.Sequential(*(Adapter(m) if isinstance(m, nn.Linear) else m for m in network()))


def taped():
    model = adapted()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=adapted(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = adapted()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
    return model
