"""Several tasks: a dict of outputs, and a dict of targets."""

import torch
from loop_problem import N, per_example, x, y
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Losses"
REPLAY = "\\d+ steps replayed, equal .*"


records = [{"x": row, "kind": kind, "size": row.norm()} for row, kind in zip(x, y, strict=True)]


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.body, self.kind, self.size = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 1)
        self.double()

    def forward(self, x):
        hidden = self.body(x).tanh()
        return {"kind": self.kind(hidden), "size": self.size(hidden)[:, 0]}


def both(outputs, target, batch):  # tape
    kind = nn.functional.cross_entropy(outputs["kind"], batch["kind"], reduction="none")  # tape
    return kind + 0.5 * (outputs["size"] - batch["size"]) ** 2  # tape


def forward(model, batch):  # tape
    return model(batch["x"])  # tape


def taped():
    model = TwoHeads()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(records, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=both, data=records, forward=forward) as tape:  # tape
        for _epoch in range(3):
            # was: for batch in loader:
            for _, batch in tape.batches(loader):  # tape
                outputs = model(batch["x"])
                loss = nn.functional.cross_entropy(outputs["kind"], batch["kind"])
                loss = loss + 0.5 * nn.functional.mse_loss(outputs["size"], batch["size"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    parts = {"model": TwoHeads(), "loss": both, "data": records, "forward": forward}  # tape
    # was: return model
    return ik.open("run.zarr", **parts, test=records)  # tape


def plain(weights):
    model = TwoHeads()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _epoch in range(3):
        for rows in DataLoader(range(N), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            (weights[rows] * by_hand(model, rows)).mean().backward()
            optimizer.step()
    return model


def by_hand(model, rows):
    outputs = model(x[rows])
    return per_example(outputs["kind"], y[rows]) + 0.5 * (outputs["size"] - x[rows].norm(dim=1)) ** 2


def asked(model):
    with torch.no_grad():
        return by_hand(model, range(N)).mean().item()
