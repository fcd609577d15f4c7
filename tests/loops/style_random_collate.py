"""A collate function that draws: masked words."""

import torch
from loop_problem import per_example
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Batches"
H = 1e-05


texts = torch.randint(1, 7, (8, 5), generator=torch.Generator().manual_seed(0))


def masked(rows):
    """One word of each text is hidden, and is the target."""
    words = torch.stack(rows)
    place = torch.randint(5, (len(words), 1))
    return words.scatter(1, place, 0), words.gather(1, place)[:, 0]


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embed, self.head = nn.Embedding(7, 3).double(), nn.Linear(3, 7).double()

    def forward(self, words):
        return self.head(self.embed(words).mean(1))


def taped():
    model = Masked()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    loader = DataLoader(texts, batch_size=4, shuffle=True, collate_fn=masked)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=texts) as tape:  # tape
        for _epoch in range(3):
            # was: for words, target in loader:
            for _, (words, target) in tape.batches(loader):  # tape
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(words), target).backward()
                optimizer.step()
    test = masked(list(texts))
    # was: return model
    return ik.open("run.zarr", model=Masked(), loss=losses, data=texts, collate=masked, test=test)  # tape


def plain(weights):
    model = Masked()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    loader = DataLoader(list(enumerate(texts)), batch_size=4, shuffle=True, collate_fn=numbered)
    for _epoch in range(3):
        for rows, words, target in loader:
            optimizer.zero_grad()
            (weights[rows] * per_example(model(words), target)).mean().backward()
            optimizer.step()
    model.test = masked(list(texts))
    return model


def numbered(found):
    return [i for i, _ in found], *masked([text for _, text in found])


def asked(model):
    words, target = model.test
    with torch.no_grad():
        return per_example(model(words), target).mean().item()
