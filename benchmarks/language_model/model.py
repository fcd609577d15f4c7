"""A small causal transformer: layer norm before attention and before two layers with GELU; no dropout."""

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Decoder", "sequence_losses", "unigram_loss"]


class Decoder(nn.Module):
    """Logits [sequence, position, piece] of the next piece, from the pieces up to each position."""

    def __init__(self, pieces: int, length: int, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.pieces, self.places = nn.Embedding(pieces, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(length, width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, pieces)
        for embedding in (self.pieces, self.places):
            nn.init.normal_(embedding.weight, std=0.3)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.pieces(x) + self.places.weight)))


class Block(nn.Module):
    """Causal attention and two layers, each added to what it got."""

    def __init__(self, length: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.register_buffer("later", torch.ones(length, length, dtype=torch.bool).triu(1))
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.looks, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(self.attention(self.looks(self.before(x))))
        return x + self.down(F.gelu(self.up(self.between(x))))

    def attention(self, x: Tensor) -> Tensor:
        """[sequence, position, 3 width] to [sequence, position, width], written out: it has second
        derivatives."""
        q, k, v = x.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / sqrt(q.shape[-1])).masked_fill(self.later, -torch.inf).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)


def sequence_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy over the positions of each sequence, in nats a piece: [sequence]."""
    return F.cross_entropy(logits.mT, targets, reduction="none").mean(1)


def unigram_loss(train: Tensor, test: Tensor, pieces: int) -> float:
    """The mean loss of foretelling test targets by how often training targets are which piece, plus one."""
    counts = torch.bincount(train.flatten(), minlength=pieces) + 1.0
    return float(-(counts / counts.sum()).log()[test].mean())
