"""A user's training loop with a tape, and the same loop again in PyTorch alone, on a tiny problem."""

import random
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from helpers_step import as_it_is
from torch import nn
from torch.utils.data import DataLoader, Dataset

import influencekit as ik

N, TEST = 12, 5
per_example = nn.CrossEntropyLoss(reduction="none")


def sample(n=N, seed=0, dtype=torch.float64):
    """Inputs [n, 4] and one of three classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(0, 3, (n,), generator=generator)


def held_out(dtype=torch.float64):
    return sample(TEST, seed=1, dtype=dtype)


class Examples(Dataset):
    """The sample; `noisy`: augmented anew every time, from all three generators."""

    def __init__(self, dtype=torch.float64, noisy=False):
        self.x, self.y = sample(dtype=dtype)
        self.noisy = noisy

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        if not self.noisy:
            return self.x[i], self.y[i]
        scale = random.uniform(0.9, 1.1) * float(np.random.uniform(0.9, 1.1))
        return self.x[i] * scale + 0.1 * torch.randn(4).to(self.x), self.y[i]


def network(dtype=torch.float64, dropout=0.0):
    """A small tanh network, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        layers = [nn.Linear(4, 5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 3)]
        return nn.Sequential(*layers).to(dtype)


@dataclass(frozen=True)
class Loop:
    """What a training loop does."""

    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    accumulate: int = 1
    clip: float | None = None
    dropout: float = 0.0
    schedule: bool = False
    noisy: bool = False
    h: float = 1e-2  # from where central differences are extrapolated: Adam is rough

    def scheduler(self, optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9) if self.schedule else None


def sgd(m):
    return torch.optim.SGD(m.parameters(), lr=0.3, momentum=0.9, weight_decay=0.01)


def adamw(m):
    return torch.optim.AdamW(m.parameters(), lr=0.05)


def groups(m):
    """Weights and biases, which lie between each other."""
    weights = {"params": [m[0].weight, m[3].weight], "weight_decay": 0.1}
    biases = {"params": [m[3].bias, m[0].bias], "lr": 0.1, "weight_decay": 0.0, "betas": (0.8, 0.99)}
    return torch.optim.AdamW([weights, biases], lr=0.05)


LOOPS = {
    "plain SGD": Loop(lambda m: torch.optim.SGD(m.parameters(), lr=0.5)),
    "SGD, momentum, weight decay, schedule": Loop(sgd, schedule=True),
    "SGD, Nesterov": Loop(lambda m: torch.optim.SGD(m.parameters(), lr=0.2, momentum=0.9, nesterov=True)),
    "SGD, dampening in one group only": Loop(
        lambda m: torch.optim.SGD(
            [{"params": m[0].parameters(), "momentum": 0.5, "dampening": 0.3}, {"params": m[3].parameters()}],
            lr=0.3,
        )
    ),
    "Adam": Loop(lambda m: torch.optim.Adam(m.parameters(), lr=0.05, weight_decay=0.01), h=1e-5),
    "AdamW, clipped": Loop(adamw, clip=0.3, h=1e-5),
    "two groups": Loop(groups, h=1e-5),
    "accumulation over 2": Loop(sgd, accumulate=2),
    "dropout": Loop(adamw, dropout=0.3, h=1e-5),
    "random augmentation, dropout, accumulation over 3": Loop(sgd, accumulate=3, dropout=0.3, noisy=True),
}
each_loop = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)


def seed(number=3):
    torch.manual_seed(number), random.seed(number), np.random.seed(number)


def order():
    """The batches of three epochs, four examples each."""
    generator = torch.Generator().manual_seed(4)
    return [[b.tolist() for b in torch.randperm(N, generator=generator).split(4)] for _ in range(3)]


def vector(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])


@dataclass
class Done:
    """A loop that was run: the tape, model and optimizer at the end, and theta before each step and last."""

    tape: Any
    model: nn.Module
    optimizer: torch.optim.Optimizer
    states: list

    def open(self, **more):
        dtype = self.states[0].dtype
        return self.tape.trajectory(test=held_out(dtype), **more)


def taped(loop, store=None, dtype=torch.float64, before_step=None, model=None, tape=True, **options):
    """The loop as a user writes it, with a tape (or `tape` = False: without)."""
    seed()
    data = Examples(dtype, loop.noisy)
    model = network(dtype, loop.dropout) if model is None else model
    optimizer = loop.optimizer(model)
    scheduler, states, step = loop.scheduler(optimizer), [], 0
    settings = {"recorder": "full", "accumulate": loop.accumulate, "clip_norm": loop.clip, "check": 1.0}
    settings |= {"scheduler": [scheduler] if scheduler else []} | options
    roll = ik.Tape(store, model, optimizer, loss=per_example, data=data, **settings) if tape else None
    with roll or contextmanager(lambda: (yield))():
        for epoch in order():
            # a generator of its own, so that making the iterator draws nothing from the global one
            loader = DataLoader(data, batch_sampler=epoch, generator=torch.Generator().manual_seed(5))
            for k, (_, (x, y)) in enumerate(roll.batches(loader) if roll else ((None, b) for b in loader)):
                if k % loop.accumulate == 0:
                    states.append(vector(model))
                (nn.functional.cross_entropy(model(x), y) / loop.accumulate).backward()
                if (k + 1) % loop.accumulate and k + 1 < len(epoch):
                    continue
                if loop.clip:
                    nn.utils.clip_grad_norm_(model.parameters(), loop.clip)
                if before_step:
                    before_step(step, model, optimizer)
                optimizer.step()
                if scheduler:
                    scheduler.step()
                optimizer.zero_grad()
                step += 1
        states.append(vector(model))
    return Done(roll, model, optimizer, states)


def alone(loop, weights=lambda step: torch.ones(N, dtype=torch.float64)):
    """The loop in PyTorch alone, weights(step) [N] on the losses: theta before each step, and last."""
    seed()
    data, model = Examples(noisy=loop.noisy), network(dropout=loop.dropout)
    optimizer = loop.optimizer(model)
    scheduler, states = loop.scheduler(optimizer), [vector(model)]
    for epoch in order():
        for k, rows in enumerate(epoch):
            x, y = (torch.stack(part) for part in zip(*[data[i] for i in rows], strict=True))
            weighted = weights(len(states) - 1)[rows] * per_example(model(x), y)
            (weighted.sum() / (len(rows) * loop.accumulate)).backward()
            if (k + 1) % loop.accumulate and k + 1 < len(epoch):
                continue
            if loop.clip:
                nn.utils.clip_grad_norm_(model.parameters(), loop.clip)
            optimizer.step()
            if scheduler:
                scheduler.step()
            optimizer.zero_grad()
            states.append(vector(model))
    return states


def losses_at(theta):
    """The losses [TEST] of the held-out examples."""
    model = network().eval()
    nn.utils.vector_to_parameters(theta, model.parameters())
    x, y = held_out()
    with torch.no_grad():
        return per_example(model(x), y)


@contextmanager
def untraced():
    """Tracing takes longer than a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("kernels.products", "traced"):
            patch.setattr(f"influencekit._training.{module}.try_trace", as_it_is)
        yield
