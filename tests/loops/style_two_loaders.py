"""Two loaders at once: labelled and unlabelled examples."""

import torch
from loop_problem import data, network, test, x_test
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Batches"
REFUSED = (
    "step 0: the model ran forward, with gradients, on no new batch of tape.batches (input [2, 4]): it is"
    " pass 2 of this step, and no pass on its batch of 4: what comes from elsewhere (a second loader, "
    "generated inputs) must be in the batch, and forward=lambda model, batch: ... must run all passes"
)


def taped():
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(data, batch_size=4, shuffle=True)
    unlabelled = DataLoader(TensorDataset(x_test), batch_size=2, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
        for _epoch in range(3):
            # was: for (inputs, target), (more,) in zip(loader, unlabelled, strict=False):
            for (_, (inputs, target)), (more,) in zip(tape.batches(loader), unlabelled, strict=False):  # tape
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(inputs), target)
                certain = model(more).softmax(1)
                (loss - 0.1 * (certain * certain.log()).sum(1).mean()).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape
