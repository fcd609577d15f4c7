"""accelerate: prepare, accumulate, clip_grad_norm_."""

import torch
from accelerate import Accelerator
from loop_problem import Numbered, data, network, per_example, test
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Precision and wrappers"
NEEDS = ("accelerate",)


def taped():
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = network()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(data, batch_size=3, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    options = {"loss": losses, "data": data, "accumulate": 2, "clip_norm": 0.5}  # tape
    with ik.Tape("run.zarr", model, optimizer, **options) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                with accelerator.accumulate(model):
                    loss = nn.functional.cross_entropy(model(inputs), target)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 0.5)
                    optimizer.step()
                    optimizer.zero_grad()
    # was: return model
    return ik.open("run.zarr", model=network(), loss=losses, data=data, test=test)  # tape


def plain(weights):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for k, (rows, inputs, target) in enumerate(DataLoader(Numbered(data), batch_size=3, shuffle=True)):
            ((weights[rows] * per_example(model(inputs), target)).mean() / 2).backward()
            if k % 2 == 1:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
    return model
