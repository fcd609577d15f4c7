"""Mixed precision in float16 with a GradScaler, some of whose steps are skipped.

Pass `scaler=`: the steps that it skips are left out, and its scale is recorded.
"""

import torch
from loop_problem import Numbered, network, per_example, x, x_test, y, y_test
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Precision and wrappers"
FLOAT32 = True

train_set, test_set = TensorDataset(x.float(), y), TensorDataset(x_test.float(), y_test)


def single():
    return network(dtype=torch.float32)


def taped():
    model = single()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**19, backoff_factor=2.0**-4)
    loader = DataLoader(train_set, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=train_set, scaler=scaler) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=torch.float16):
                    loss = nn.functional.cross_entropy(model(inputs), target)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
    # was: return model
    return ik.open("run.zarr", model=single(), loss=losses, data=train_set, test=test_set)  # tape


def plain(weights):
    model = single()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**19, backoff_factor=2.0**-4)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(train_set), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = (weights[rows] * per_example(model(inputs), target)).mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    return model
