"""The problem: the next piece in newsgroup posts, learnt by a small transformer with AdamW and warm-up."""

from dataclasses import dataclass

import torch
from torch import nn

import influencekit as ik
from benchmarks.language_model.model import Decoder, sequence_losses
from benchmarks.language_model.text import PIECES, sequences

__all__ = ["MOVED", "RUNS", "Size", "problem"]

MOVED = 0.001  # of the root mean square of each tensor
RUNS = {"recorded": {}, "moved": {"moved": MOVED}, "other seed": {"seed": 1}}  # how each run starts


@dataclass(frozen=True)
class Size:
    """How large the problem is, and how it is trained."""

    train: int = 512  # sequences
    test: int = 128
    length: int = 24  # pieces of a sequence
    width: int = 128
    heads: int = 4
    blocks: int = 1
    epochs: int = 6
    lr: float = 0.003  # at the end of the warm-up, which is the first fifth; then it falls linearly
    eps: float = 1e-8
    weight_decay: float = 0.01


def problem(size: Size, batch: int, seed: int = 0, moved: float = 0.0) -> ik.Workload:
    """The run of this seed: its initial parameters and its order of batches. Examples are the same for all.

    `moved`: every initial tensor is moved by this fraction of its root mean square. The workload's own seed,
    which draws the sets that are left out, is 0 for all runs, so that all are judged by the same sets.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Decoder(PIECES, size.length, size.width, size.heads, size.blocks)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(size.train, generator=generator) for _ in range(size.epochs)]
    if moved:
        move(model, moved)
    return ik.Workload(
        model=model,
        loss=sequence_losses,
        train=sequences("train", size.length, size.train),
        test=sequences("test", size.length, size.test),
        optimizer=ik.AdamW(lr=size.lr, eps=size.eps, weight_decay=size.weight_decay),
        schedule=warm_up(size.epochs * size.train // batch),
        epochs=size.epochs,
        batch_size=batch,
        order=torch.cat([order.view(-1, batch) for order in orders]),
        name="language-model",
    )


def move(model: nn.Module, fraction: float) -> None:
    """Move the parameters of a model by a fraction of each tensor's root mean square."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor += fraction * tensor.square().mean().sqrt() * noise


def warm_up(steps: int) -> ik.Factors:
    """Up linearly over the first fifth of the steps, then down linearly."""
    warm = max(1, steps // 5)
    up = [(t + 1) / warm for t in range(warm)]
    return ik.Factors((*up, *((steps - t) / (steps - warm) for t in range(warm, steps))))
