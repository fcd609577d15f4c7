"""An auxiliary term of the batch: a mixture of experts is balanced.

The term belongs to no example: removal leaves it, on the whole batch.
"""

import torch
from loop_problem import Numbered, data, per_example, test, x_test, y_test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Losses"
REPLAY = "\\d+ steps replayed, equal .*"


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.gate, self.experts = nn.Linear(4, 2), nn.Linear(4, 6)
        self.double()

    def forward(self, inputs):
        gates = self.gate(inputs).softmax(1)
        experts = self.experts(inputs).tanh().unflatten(1, (2, 3))
        return {"logits": (gates[..., None] * experts).sum(1), "gates": gates}


def losses(outputs, target):
    return nn.functional.cross_entropy(outputs["logits"], target, reduction="none")


def balance(model, outputs):
    return 0.1 * (outputs["gates"].mean(0) ** 2).sum()


def taped():
    model = Experts()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data, penalty=balance) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                outputs = model(inputs)
                (losses(outputs, target).mean() + balance(model, outputs)).backward()
                optimizer.step()
    parts = {"model": Experts(), "loss": losses, "data": data, "penalty": balance}  # tape
    # was: return model
    return ik.open("run.zarr", **parts, test=test)  # tape


def plain(weights):
    model = Experts()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            outputs = model(inputs)
            loss = (weights[rows] * per_example(outputs["logits"], target)).mean()
            (loss + 0.1 * (outputs["gates"].mean(0) ** 2).sum()).backward()
            optimizer.step()
    return model


def asked(model):
    with torch.no_grad():
        return per_example(model(x_test)["logits"], y_test).mean().item()
