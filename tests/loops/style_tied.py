"""Tied weights: the embedding is the output layer."""

import torch
from loop_problem import Numbered, per_example
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Models"


words = torch.randint(0, 6, (2, 12), generator=torch.Generator().manual_seed(0))
pairs = TensorDataset(*words)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embed, self.head = nn.Embedding(6, 4).double(), nn.Linear(4, 6, bias=False).double()
        self.head.weight = self.embed.weight

    def forward(self, word):
        return self.head(self.embed(word).tanh())


def taped():
    model = Tied()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(pairs, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=pairs) as tape:  # tape
        for _epoch in range(3):
            # was: for word, after in loader:
            for _, (word, after) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(word), after).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=Tied(), loss=losses, data=pairs, test=pairs)  # tape


def plain(weights):
    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows, word, after in DataLoader(Numbered(pairs), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(word), after)).mean().backward()
            optimizer.step()
    return model


def asked(model):
    with torch.no_grad():
        return per_example(model(pairs.tensors[0]), pairs.tensors[1]).mean().item()
