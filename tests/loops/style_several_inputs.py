"""A model that is called with several inputs, and gives a dict."""

import torch
from loop_problem import Numbered, per_example, x, y
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Models"


pairs = TensorDataset(x, x.flip(0), y)


class Matcher(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.left, self.right = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()

    def forward(self, left, right):
        return {"logits": self.left(left) + self.right(right).tanh()}


def losses(outputs, target):  # tape
    return nn.functional.cross_entropy(outputs["logits"], target, reduction="none")  # tape


def taped():
    model = Matcher()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(pairs, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=pairs) as tape:  # tape
        for _epoch in range(3):
            # was: for left, right, target in loader:
            for _, (left, right, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                outputs = model(left, right)
                nn.functional.cross_entropy(outputs["logits"], target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=Matcher(), loss=losses, data=pairs, test=pairs)  # tape


def plain(weights):
    model = Matcher()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, left, right, target in DataLoader(Numbered(pairs), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(left, right)["logits"], target)).mean().backward()
            optimizer.step()
    return model


def asked(model):
    with torch.no_grad():
        return per_example(model(x, x.flip(0))["logits"], y).mean().item()
