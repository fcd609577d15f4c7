"""A recurrent network (LSTM) on sequences."""

import torch
from loop_problem import Numbered, per_example, x, y
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import influencekit as ik

GROUP = "Models"
H = 1e-05


sequences = TensorDataset(x.reshape(12, 2, 2), y)


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.lstm, self.head = nn.LSTM(2, 3, batch_first=True).double(), nn.Linear(3, 3).double()

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def taped():
    model = Reader()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    loader = DataLoader(sequences, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=sequences) as tape:  # tape
        for _epoch in range(3):
            # was: for inputs, target in loader:
            for _, (inputs, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), target).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=Reader(), loss=losses, data=sequences, test=sequences)  # tape


def plain(weights):
    model = Reader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    for _epoch in range(3):
        for rows, inputs, target in DataLoader(Numbered(sequences), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * per_example(model(inputs), target)).mean().backward()
            optimizer.step()
    return model


def asked(model):
    with torch.no_grad():
        return per_example(model(sequences.tensors[0]), y).mean().item()
