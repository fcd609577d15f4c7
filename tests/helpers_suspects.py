"""A small problem with wrong labels, recorded, as a loop of the user's own, and as a plain loop."""

from copy import deepcopy

import torch
from torch import nn

import influencekit as ik

N, TRUSTED, WRONG = 60, 120, 6
per_example = nn.CrossEntropyLoss(reduction="none")


def sample(n, seed, classes=3):
    """Points around one of `classes` centres, in float64."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n,), generator=generator)
    centres = torch.eye(3, dtype=torch.float64)[:classes] * 3
    return centres[y] + torch.randn(n, 3, generator=generator, dtype=torch.float64), y


def training(wrong=WRONG):
    """The training examples, of which the first ones have the next label."""
    x, y = sample(N, 0)
    y[:wrong] = (y[:wrong] + 1) % 3
    return x, y


def linear():
    model = nn.Linear(3, 3).double()
    for p in model.parameters():
        nn.init.zeros_(p)
    return model


def workload(wrong=WRONG, **changes):
    given = {
        "model": linear(), "loss": per_example, "train": training(wrong), "test": sample(TRUSTED, 1),
        "optimizer": ik.SGD(lr=0.2), "epochs": 4, "batch_size": 10,
    }  # fmt: skip
    return ik.Workload(**given | changes)


def taped(test, train=None, store=None, best=None):
    """The same training as a loop of the user's own, under a tape; at the end it loads epoch `best`."""
    model, data = linear(), torch.utils.data.TensorDataset(*(train or training()))
    kept = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    with ik.Tape(store, model, optimizer, loss=per_example, data=data) as tape:
        for epoch in workload().plan.indices.split(6):
            loader = torch.utils.data.DataLoader(data, batch_sampler=epoch.tolist())
            for _, (x, y) in tape.batches(loader):
                optimizer.zero_grad()
                per_example(model(x), y).mean().backward()
                optimizer.step()
            kept.append(deepcopy(model.state_dict()))
        if best is not None:
            model.load_state_dict(kept[best])
    return None if store else tape.trajectory(test=test)


def plain(labels=None, without=(), epochs=4):
    """The model after a plain loop on the same batches with these labels, the examples `without` masked."""
    model, (x, y) = linear(), training()
    y = y if labels is None else labels
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    stays = torch.ones(N, dtype=torch.float64)
    stays[list(without)] = 0
    for batch in workload().plan.indices[: 6 * epochs]:
        optimizer.zero_grad()
        ((stays[batch] * per_example(model(x[batch]), y[batch])).sum() / len(batch)).backward()
        optimizer.step()
    return model


def margin(z, y):
    """z_y less the largest other logit, one example after the other."""
    return torch.stack([a[k] - max(v for j, v in enumerate(a) if j != k) for a, k in zip(z, y, strict=True)])
