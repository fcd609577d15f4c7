"""Several processes: DistributedDataParallel."""

import torch
from loop_problem import data, network
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Precision and wrappers"
REFUSED = (
    "the model (DistributedDataParallel) spreads training over devices (DistributedDataParallel); pass "
    "model.module, trained on one device"
)


def taped():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    try:
        model = nn.parallel.DistributedDataParallel(network())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        loader = DataLoader(data, batch_size=4, shuffle=True)
        with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data) as tape:  # tape
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
    finally:
        torch.distributed.destroy_process_group()
    return model
