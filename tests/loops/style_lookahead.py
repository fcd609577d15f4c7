"""Lookahead: slow weights, which pull the model back every few steps."""

import torch
from loop_problem import data, network, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Loops"
REFUSED = (
    "step 1: parameter 0.weight was changed since the last step by something else than the optimizer, "
    "which a replay would not do; leave it out, or do it inside the model"
)


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    slow = [p.detach().clone() for p in model.parameters()]
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for _epoch in range(3):
            # was: for k, (inputs, target) in enumerate(loader):
            for k, (_, (inputs, target)) in enumerate(tape.batches(loader)):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
                if k % 2 == 0:
                    with torch.no_grad():
                        for p, q in zip(model.parameters(), slow, strict=True):
                            q += 0.5 * (p - q)
                            p.copy_(q)
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape
