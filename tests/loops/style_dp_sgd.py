"""Differential privacy: every example's gradient is clipped, and noise is added."""

import torch
from loop_problem import data, network, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Loops"
REFUSED = (
    "step 0: loss(outputs, target) fails on what the model gave for this batch (ValueError: Expected "
    "input batch_size (1) to match target batch_size (4).); it got 1 of 4 rows: where the loop cuts "
    "batches into pieces, let the loader give the pieces, and pass accumulate=, the number of them"
)


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                total = [torch.zeros_like(p) for p in model.parameters()]
                for one, label in zip(inputs, target, strict=True):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(one[None]), label[None]).backward()
                    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                    torch._foreach_add_(total, [p.grad for p in model.parameters()])
                for p, g in zip(model.parameters(), total, strict=True):
                    p.grad = (g + 0.01 * torch.randn_like(g)) / len(inputs)
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape
