"""LBFGS with a closure."""

import torch
from loop_problem import data, network, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Optimizers and schedules"
REFUSED = (
    "LBFGS evaluates the loss several times in a step, which a tape does not record; use an optimizer that "
    "takes one gradient a step; a model that is trained already can be asked by its gradients, with if or "
    "grad-dot (docs/choosing.md, Only a trained model)"
)


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.3)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape

                def closure(inputs=inputs, target=target):
                    optimizer.zero_grad()
                    loss = nn.functional.cross_entropy(model(inputs), target)
                    loss.backward()
                    return loss

                optimizer.step(closure)
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape
