"""Several processes: DistributedDataParallel, with `group=` on every rank.

Here in a group of one. tests/test_tape_ranks.py has two and three ranks, and
[More than one machine](machines.md) says what they can do.
"""

import torch
from loop_problem import Numbered, data, network, per_example, test
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

import influencekit as ik

GROUP = "Precision and wrappers"


def taped():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    model = nn.parallel.DistributedDataParallel(network())
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    world = torch.distributed.group.WORLD  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    sampler = DistributedSampler(data)
    loader = DataLoader(data, batch_size=4, sampler=sampler)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=data, group=world) as tape:  # tape
        for epoch in range(3):
            sampler.set_epoch(epoch)
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
    torch.distributed.destroy_process_group()
    # was: return model.module
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for epoch in range(3):
        sampler = DistributedSampler(data, num_replicas=1, rank=0)
        sampler.set_epoch(epoch)
        for rows, inputs, target in DataLoader(Numbered(data), batch_size=4, sampler=sampler):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
    return model
