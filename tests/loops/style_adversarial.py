"""Adversarial training: inputs are moved along their gradient."""

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
                inputs = inputs.clone().requires_grad_()
                loss = nn.functional.cross_entropy(model(inputs), target)
                (slope,) = torch.autograd.grad(loss, inputs)
                moved = (inputs + 0.1 * slope.sign()).detach()
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(moved), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape
