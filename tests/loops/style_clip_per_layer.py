"""Clipping of each layer by its own norm."""

import torch
from loop_problem import data, network, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Loops"
REFUSED = (
    "step 0, replayed, is not what the loop did: parameter 3.weight differs by up to 5.11e-02, where the "
    "recorded update is up to 5.04e-03; it fits if the gradient of every parameter is scaled by a factor "
    "of its own (3.weight by 0.0897, 0.weight by 0.177), as by clipping layers one by one, which is not "
    "recorded: clip all together (clip_norm=)"
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
                for layer in (model[0], model[3]):
                    nn.utils.clip_grad_norm_(layer.parameters(), 0.05)
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape
