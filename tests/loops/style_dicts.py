"""Batches that are dicts, padded by a collate function."""

import torch
from loop_problem import per_example
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Batches"
H = 1e-05


generator = torch.Generator().manual_seed(0)
lengths = [2, 5, 3, 4, 2, 6, 3, 5]
texts = [
    {"tokens": torch.randint(1, 9, (n,), generator=generator), "labels": torch.tensor(n % 3)} for n in lengths
]


def padded(texts):
    tokens = nn.utils.rnn.pad_sequence([text["tokens"] for text in texts], batch_first=True)
    return {"tokens": tokens, "mask": tokens != 0, "labels": torch.stack([text["labels"] for text in texts])}


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embed, self.head = nn.Embedding(9, 4).double(), nn.Linear(4, 3).double()

    def forward(self, tokens, mask):
        words = self.embed(tokens) * mask[..., None]
        return self.head(words.sum(1) / mask.sum(1, keepdim=True))


def forward(model, batch):  # tape
    return model(batch["tokens"], batch["mask"])  # tape


def taped():
    model = Text()
    losses = nn.CrossEntropyLoss(reduction="none")  # tape
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    loader = DataLoader(texts, batch_size=4, shuffle=True, collate_fn=padded)
    with ik.Tape("run.zarr", model, optimizer, loss=losses, data=texts, forward=forward) as tape:  # tape
        for _epoch in range(3):
            # was: for batch in loader:
            for _, batch in tape.batches(loader):  # tape
                optimizer.zero_grad()
                logits = model(batch["tokens"], batch["mask"])
                nn.functional.cross_entropy(logits, batch["labels"]).backward()
                optimizer.step()
    parts = {"model": Text(), "loss": losses, "data": texts, "forward": forward, "collate": padded}  # tape
    # was: return model
    return ik.open("run.zarr", **parts, test=padded(texts))  # tape


def plain(weights):
    model = Text()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    loader = DataLoader(list(enumerate(texts)), batch_size=4, shuffle=True, collate_fn=list)
    for _epoch in range(3):
        for found in loader:
            rows, batch = [i for i, _ in found], padded([text for _, text in found])
            optimizer.zero_grad()
            logits = model(batch["tokens"], batch["mask"])
            (weights[rows] * per_example(logits, batch["labels"])).mean().backward()
            optimizer.step()
    return model


def asked(model):
    batch = padded(texts)
    with torch.no_grad():
        return per_example(model(batch["tokens"], batch["mask"]), batch["labels"]).mean().item()
