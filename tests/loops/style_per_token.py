"""A language model, whose loss is a mean over the tokens of a batch."""

import torch
from torch import nn
from torch.utils.data import DataLoader

import influencekit as ik

GROUP = "Losses"
REPLAY = "\\d+ steps replayed, equal .*"


words = torch.randint(1, 7, (8, 6), generator=torch.Generator().manual_seed(0))
words[::2, 4:] = 0  # padding
texts = [{"input": row, "labels": torch.where(row == 0, -100, row)} for row in words]


class Bigrams(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embed, self.head = nn.Embedding(7, 3).double(), nn.Linear(3, 7).double()

    def forward(self, input):
        return self.head(self.embed(input))


def sums(logits, labels):  # tape
    return nn.functional.cross_entropy(logits[:, :-1].mT, labels[:, 1:], reduction="none").sum(1)  # tape


def per_token(batch):  # tape
    return 1 / int((batch["labels"][:, 1:] != -100).sum())  # tape


def taped():
    model = Bigrams()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    loader = DataLoader(texts, batch_size=4, shuffle=True)
    with ik.Tape("run.zarr", model, optimizer, loss=sums, reduction=per_token, data=texts) as tape:  # tape
        for _epoch in range(3):
            # was: for batch in loader:
            for _, batch in tape.batches(loader):  # tape
                optimizer.zero_grad()
                logits, labels = model(batch["input"]), batch["labels"]
                nn.functional.cross_entropy(logits[:, :-1].mT, labels[:, 1:]).backward()
                optimizer.step()
    # was: return model
    return ik.open("run.zarr", model=Bigrams(), loss=sums, data=texts, test=texts)  # tape


def plain(weights):
    model = Bigrams()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    for _epoch in range(3):
        for rows in DataLoader(range(len(texts)), batch_size=4, shuffle=True):
            total = sum(weights[i] * loss_of_text(model, texts[i]) for i in rows)
            optimizer.zero_grad()
            (total / sum((texts[i]["labels"][1:] != -100).sum() for i in rows)).backward()
            optimizer.step()
    return model


def loss_of_text(model, text):
    logits = model(text["input"])[:-1]
    return nn.functional.cross_entropy(logits, text["labels"][1:], reduction="sum")


def asked(model):
    with torch.no_grad():
        return sum(loss_of_text(model, text).item() for text in texts) / len(texts)
