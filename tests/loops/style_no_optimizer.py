"""Updates by hand, without torch.optim."""

import torch
from loop_problem import data, network, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Optimizers and schedules"
REFUSED = (
    "step 0: a batch was forwarded, and no optimizer step followed; if the loop accumulates gradients "
    "over more than 1, pass accumulate=..., and call optimizer.step() after every such group"
)


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    unused = torch.optim.SGD(model.parameters(), lr=0.1)  # tape
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, unused, loss=losses, data=data) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                model.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                with torch.no_grad():
                    for p in model.parameters():
                        p -= 0.1 * p.grad
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape
