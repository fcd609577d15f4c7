"""Random windows of one long text, by randint (nanoGPT).

A window is an example, and has the position of its start. It may stand in a batch twice.
"""

import torch
from loop_problem import per_example
from torch import nn

import influencekit as ik

GROUP = "Batches"
H = 1e-05
REPLAY = "\\d+ steps replayed, equal .*"


text = torch.randint(0, 7, (24,), generator=torch.Generator().manual_seed(0))
windows = [(text[i : i + 5], text[i + 1 : i + 6]) for i in range(len(text) - 5)]  # tape


def get_batch():
    start = torch.randint(len(text) - 5, (4,))
    inputs = torch.stack([text[i : i + 5] for i in start])
    target = torch.stack([text[i + 1 : i + 6] for i in start])
    return start, (inputs, target)


class Bigrams(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embed, self.head = nn.Embedding(7, 3).double(), nn.Linear(3, 7).double()

    def forward(self, input):
        return self.head(self.embed(input))


def means(logits, target):  # tape
    return nn.functional.cross_entropy(logits.mT, target, reduction="none").mean(1)  # tape


def taped():
    model = Bigrams()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    with ik.Tape("run.zarr", model, optimizer, loss=means, data=windows) as tape:  # tape
        # was: for _start, (inputs, target) in (get_batch() for _ in range(8)):
        for _, (inputs, target) in tape.batches(get_batch() for _ in range(8)):  # tape
            logits = model(inputs)
            loss = nn.functional.cross_entropy(logits.view(-1, 7), target.view(-1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=Bigrams(), loss=means, data=windows, test=windows)  # tape


def plain(weights):
    model = Bigrams()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    for _step in range(8):
        start, (inputs, target) = get_batch()
        losses = per_example(model(inputs).mT, target).mean(1)
        optimizer.zero_grad()
        (weights[start] * losses).mean().backward()
        optimizer.step()
    return model


def asked(model):
    inputs, target = (torch.stack(part) for part in zip(*windows, strict=True))
    with torch.no_grad():
        return per_example(model(inputs).mT, target).mean().item()
