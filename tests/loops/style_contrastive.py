"""A contrastive loss, in which every example sees its batch.

The score of an example is that of its own loss: a removed example still takes part in the losses of the
others.
"""

import torch
from loop_problem import Numbered, x
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Losses"


views = TensorDataset(x, (x + 0.3 * x.flip(0))[:, :3])


class Encoder(nn.Linear):
    def __init__(self):
        torch.manual_seed(2)
        super().__init__(4, 3, dtype=torch.float64)


def info_nce(codes, right):
    """Each left view finds its own right view among those of the batch."""
    logits = codes @ right.mT / 0.5
    return nn.functional.cross_entropy(logits, torch.arange(len(right)), reduction="none")


def taped():
    model = Encoder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(views, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=info_nce, data=views, separable=False) as tape:  # tape
        for _epoch in range(3):
            # was: for left, right in loader:
            for _, (left, right) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                info_nce(model(left), right).mean().backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=Encoder(), loss=info_nce, data=views, test=views)  # tape


def plain(weights):
    model = Encoder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, left, right in DataLoader(Numbered(views), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * info_nce(model(left), right)).mean().backward()
            optimizer.step()
    return model


def asked(model):
    with torch.no_grad():
        return info_nce(model(x), views.tensors[1]).mean().item()
