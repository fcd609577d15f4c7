"""Two optimizers for one model: SGD for the body, Adam for the head."""

import torch
from loop_problem import data, network, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Optimizers and schedules"
REFUSED = (
    "step 1: parameter 3.weight, which this optimizer does not train, was changed (by a second optimizer,"
    " or by hand), and a replay would not do that; train all by one optimizer, or leave it alone"
)


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    body = torch.optim.SGD(model[0].parameters(), lr=0.3, momentum=0.9)
    head = torch.optim.Adam(model[3].parameters(), lr=0.05)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, body, loss=losses, data=data) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                body.zero_grad()
                head.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                body.step()
                head.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape
