"""Models, batches and losses of every usual kind, each as a loop with a tape and as one in PyTorch alone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers_tape import network, per_example, sample, seed, vector
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from influencekit import Tape

NUMBER = 8


def texts(n=NUMBER):
    """Token ids of several lengths, with a class."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 6, (n,), generator=generator).tolist()
    ids = [torch.randint(1, 9, (k,), generator=generator) for k in lengths]
    return [{"ids": row, "label": k % 3} for k, row in enumerate(ids)]


def padded(rows):
    """Padded to the longest, with a mask."""
    ids = nn.utils.rnn.pad_sequence([row["ids"] for row in rows], batch_first=True)
    return {"ids": ids, "mask": ids != 0, "labels": torch.tensor([row["label"] for row in rows])}


def next_tokens(rows):
    """Padded, the labels being the next tokens, and -100 after the last and for every token 3."""
    batch = padded(rows)
    labels = batch["ids"][:, 1:].masked_fill(batch["ids"][:, 1:] == 0, -100)
    return {"ids": batch["ids"][:, :-1], "labels": labels.masked_fill(labels == 3, -100)}


class Transformer(nn.Module):
    """An encoder layer over the tokens that are there, their mean, and a pooler that nothing uses."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, activation="gelu", batch_first=True)
        self.pooler, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, ids, mask):
        h = self.layer(self.embed(ids), src_key_padding_mask=~mask)
        return self.head((h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


class Causal(nn.Module):
    """A language model: the mean of the tokens so far; output and embedding share their weight."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.mix = nn.Linear(4, 4)
        self.out.weight = self.embed.weight

    def forward(self, ids):
        h = self.embed(ids)
        place = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        return self.out(torch.tanh(self.mix(h.cumsum(1) / place[:, None])))


class Frozen(nn.Module):
    """A frozen layer, one that is used twice, a fixed scale, and a buffer that no parameter knows."""

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.again = self.twice
        self.first.requires_grad_(False)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 4))

    def forward(self, x):
        return self.last(torch.tanh(self.again(torch.tanh(self.twice(self.first(x * self.scale))))))


class Pair(nn.Module):
    """Two inputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3, bias=False)

    def forward(self, a, b):
        return torch.tanh(self.a(a)) + self.b(b)


class Wrapped(nn.Module):
    """Outputs in a dictionary, and a name for the input that the batch does not have."""

    def __init__(self):
        super().__init__()
        self.body = network(torch.float32)

    def forward(self, pixels, scale=1.0):
        return {"logits": self.body(pixels) * scale}


def mean_of_classes(outputs, batch):
    return F.cross_entropy(outputs, batch["labels"] if isinstance(batch, dict) else batch[-1])


def token_sum(outputs, target):
    return F.cross_entropy(outputs.mT, target, reduction="none").sum(1)


@dataclass(frozen=True)
class Kind:
    """A model with its data, and its loss twice: one per example, and the loop's own mean."""

    model: Callable[[], nn.Module]
    data: Any
    loss: Callable[..., Any] = per_example
    mean: Callable[..., Any] = mean_of_classes
    collate: Callable[..., Any] = default_collate
    call: Callable[..., Any] = lambda model, batch: model(*batch[:-1])
    count: Callable[..., Any] = len  # of a batch's targets, what the mean divides by
    options: dict = field(default_factory=dict)
    batch: dict = field(default_factory=lambda: {"batch_size": 4})

    @property
    def accumulate(self):
        return self.options.get("accumulate", 1)


def by_name(model, batch):
    return model(**{k: v for k, v in batch.items() if k != "labels"})


x, y = sample(NUMBER)
plain = TensorDataset(x, y)
KINDS = {
    "classes": Kind(network, plain),
    "lists": Kind(network, plain, collate=lambda rows: [torch.stack(p) for p in zip(*rows, strict=True)]),
    "dicts, masks, padding, dropout": Kind(Transformer, texts(), collate=padded, call=by_name),
    "causal, ignored tokens, tied": Kind(
        Causal, texts(), loss=token_sum, mean=lambda out, b: F.cross_entropy(out.mT, b["labels"]),
        collate=next_tokens, call=by_name, count=lambda target: int((target != -100).sum()),
        options={"reduction": lambda batch: 1 / (batch["labels"] != -100).sum()},
    ),
    "causal, accumulated over 2": Kind(
        Causal, texts(), loss=token_sum, mean=lambda out, b: F.cross_entropy(out.mT, b["labels"]),
        collate=next_tokens, call=by_name, count=lambda target: int((target != -100).sum()),
        options={"reduction": lambda batch: 1 / (batch["labels"] != -100).sum(), "accumulate": 2},
    ),
    "frozen, tied, constant buffer": Kind(Frozen, plain),
    "two inputs": Kind(Pair, TensorDataset(x, x.flip(0), y)),
    "custom forward, target key": Kind(
        Wrapped, [{"x": a, "class": b} for a, b in zip(x, y, strict=True)],
        mean=lambda out, b: F.cross_entropy(out, b["class"]),
        call=lambda model, batch: model(pixels=batch["x"], scale=2.0)["logits"],
        options={"target_key": "class", "forward": lambda m, b: m(pixels=b["x"], scale=2.0)["logits"]},
    ),
    "sum of losses": Kind(
        network, plain, mean=lambda out, b: F.cross_entropy(out, b[-1], reduction="sum") / 8,
        loss=lambda out, target: per_example(out, target) / 8, count=lambda target: 1,
        options={"reduction": "sum"},
    ),
    "an autoencoder of tensors": Kind(
        lambda: nn.Linear(4, 4), [row for row in x], loss=lambda out, row: ((out - row) ** 2).sum(1),
        mean=lambda out, batch: ((out - batch) ** 2).sum(1).mean(), call=lambda model, batch: model(batch),
    ),
    "a short last batch": Kind(network, plain, batch={"batch_size": 3, "shuffle": True}),
    "drop_last": Kind(network, plain, batch={"batch_size": 3, "drop_last": True}),
}  # fmt: skip
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def built(kind, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return kind.model().to(dtype)


def converted(data, dtype):
    """The data set with its floating-point numbers in another dtype."""

    def to(value):
        if isinstance(value, dict):
            return {k: to(v) for k, v in value.items()}
        if isinstance(value, tuple):
            return tuple(to(v) for v in value)
        return value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value

    return [to(data[i]) for i in range(len(data))]


def adamw(model):
    """As users do: of what is not frozen."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02, eps=1e-3)


def taped(kind, dtype=torch.float64, autocast=False, optimizer=adamw, model=None, **options):
    """Two epochs with a tape: the run, the model, theta at the end."""
    seed()
    model = built(kind, dtype) if model is None else model
    data, optimizer = converted(kind.data, dtype), optimizer(model)
    loader = DataLoader(
        data, collate_fn=kind.collate, generator=torch.Generator().manual_seed(1), **kind.batch
    )
    settings = {"recorder": "every-k:k=3", "check": 1.0, **kind.options, **options}
    with Tape(None, model, optimizer, loss=kind.loss, data=data, **settings) as tape:
        for _ in range(2):
            for k, (_, batch) in enumerate(tape.batches(loader)):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    value = kind.mean(kind.call(model, batch), batch)
                (value / kind.accumulate).backward()
                if (k + 1) % kind.accumulate == 0:
                    optimizer.step()
                    optimizer.zero_grad()
    return tape, model


def alone(kind, h, direction, optimizer=adamw):
    """The same in PyTorch alone, the weights 1 + h * direction on the losses."""
    seed()
    model = built(kind)
    data, optimizer = converted(kind.data, torch.float64), optimizer(model)
    positions = DataLoader(range(NUMBER), generator=torch.Generator().manual_seed(1), **kind.batch)
    for _ in range(2):
        for k, rows in enumerate(positions):
            batch = kind.collate([data[i] for i in rows])
            key = kind.options.get("target_key", "labels")
            target = batch[key] if isinstance(batch, dict) else batch if torch.is_tensor(batch) else batch[-1]
            losses = kind.loss(kind.call(model, batch), target)
            total = ((1 + h * direction[rows]) * losses).sum()
            (total / (kind.count(target) * kind.accumulate)).backward()
            if (k + 1) % kind.accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
    return vector(model)
