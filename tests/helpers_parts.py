"""A small language model whose loss tells tokens apart, trained by `record` and by a loop with a tape."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import influencekit as ik

WORDS, PADDED = 7, -1
LENGTHS = (6, 3, 1, 5, 6, 2, 4, 3)


class Model(nn.Module):
    """Logits [text, token, word] of the next word, from the mean of the words so far."""

    def __init__(self, width=4):
        super().__init__()
        self.words, self.out = nn.Embedding(WORDS, width), nn.Linear(width, WORDS)

    def forward(self, x):
        place = torch.arange(x.shape[1])
        earlier = (place[:, None] >= place).to(self.out.weight)
        return self.out(torch.tanh(earlier @ self.words(x) / earlier.sum(1, keepdim=True)))


def model(dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Model().to(dtype)


def texts(seed=0):
    """Words [text, token], padded on the right with -1."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(WORDS, (len(LENGTHS), max(LENGTHS) + 1), generator=generator)
    for row, length in zip(found, LENGTHS, strict=True):
        row[length + 1 :] = PADDED
    return found


def inputs(found):
    """Inputs, and the words to foretell."""
    return found[:, :-1].clamp(min=0), found[:, 1:]


def token_losses(outputs, target):
    return cross_entropy(outputs.transpose(1, 2), target.clamp(min=0), reduction="none")


def mean(outputs, target):
    return ik.Parts.mean(token_losses(outputs, target), target != PADDED)


def summed(outputs, target):
    return ik.Parts.sum(token_losses(outputs, target), target != PADDED)


def own_weights(outputs, target):
    each = torch.linspace(0.5, 2, target.shape[1]).to(outputs)
    return ik.Parts(token_losses(outputs, target), each * (target != PADDED))


LOSSES = {"mean": mean, "sum": summed, "own weights": own_weights}
OPTIMIZERS = {
    "sgd": ik.SGD(lr=0.3),
    "momentum": ik.SGD(lr=0.2, momentum=0.8, weight_decay=0.05, clip_norm=0.3),
    "adam": ik.Adam(lr=0.02, eps=0.01),
    "adamw": ik.AdamW(lr=0.02, eps=0.01, weight_decay=0.1, clip_norm=0.3),
}


def recorded(optimizer="sgd", loss="mean", l2=0.0, seed=0, dtype=torch.float64, **more):
    return ik.record(
        ik.Workload(
            model=model(dtype), loss=LOSSES[loss], train=inputs(texts()), test=inputs(texts(1)),
            optimizer=OPTIMIZERS[optimizer], epochs=2, batch_size=3, l2=l2, seed=seed, drop_last=True, **more,
        )
    )  # fmt: skip


def collated(examples):
    """Cut to the longest text of the batch: the same token stands in the same column."""
    x, y = (torch.stack(column) for column in zip(*examples, strict=True))
    longest = int((y != PADDED).sum(1).max())
    return x[:, :longest], y[:, :longest]


def per_token(batch):
    """What transformers does: a mean over all tokens of the batch."""
    return 1 / (batch[1] != PADDED).sum()


def taped(optimizer, loss=summed, accumulate=1, collate=collated, reduction=per_token, **more):
    """A loop in plain PyTorch over batches of different widths; the mean is over the tokens of the batch."""
    net, data = model(), list(zip(*inputs(texts()), strict=True))
    optimizer = optimizer(net.parameters())
    loader = DataLoader(data, batch_size=3, shuffle=True, collate_fn=collate,
                        generator=torch.Generator().manual_seed(0))  # fmt: skip
    tape = ik.Tape(
        None, net, optimizer, loss=loss, data=data, reduction=reduction, accumulate=accumulate, check=1.0,
        collate=collate, **more,
    )  # fmt: skip
    with tape:
        waiting = 0
        for _ in range(2):
            for _, batch in tape.batches(loader):
                values = loss(net(batch[0]), batch[1]).reduced()
                one = values.mean() if reduction == "mean" else values.sum() * per_token(batch)
                if penalty := more.get("penalty"):
                    one = one + penalty(net)
                (one / accumulate).backward()
                waiting += 1
                if waiting % accumulate == 0:
                    if clip := more.get("clip_norm"):
                        nn.utils.clip_grad_norm_(net.parameters(), clip)
                    optimizer.step()
                    optimizer.zero_grad()
    return tape.trajectory(test=inputs(texts(1)))
