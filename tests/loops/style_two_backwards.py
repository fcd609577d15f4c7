"""Sharpness-aware minimisation: two gradients in every step."""

import torch
from loop_problem import data, network, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Loops"
REFUSED = (
    "step 0: the model ran forward, with gradients, on no new batch of tape.batches (input [4, 4]): it is"
    " pass 2 of this step, on as many rows as the batch has: pass forward=lambda model, batch: ..., which"
    " runs all passes of a step and returns what loss= needs (two gradients in a step, as in SAM, cannot "
    "be recorded)"
)


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                with torch.no_grad():
                    ascent = [0.05 * p.grad / (p.grad.norm() + 1e-12) for p in model.parameters()]
                    torch._foreach_add_(list(model.parameters()), ascent)
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                with torch.no_grad():
                    torch._foreach_sub_(list(model.parameters()), ascent)
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape
