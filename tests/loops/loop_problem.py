"""The tiny problem that most loop styles train on: 12 examples, three classes, float64."""

import random

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

N, TEST = 12, 5
per_example = nn.CrossEntropyLoss(reduction="none")  # for the hand loops; a style makes its own


def sample(n=N, seed=0):
    """Inputs [n, 4] and one of three classes [n]."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (n,), generator=generator)


x, y = sample()
x_test, y_test = sample(TEST, seed=1)
data, test = TensorDataset(x, y), TensorDataset(x_test, y_test)


class Numbered(Dataset):
    """A data set whose examples bring their numbers, for the hand loops: (number, *example)."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return i, *self.data[i]


def network(dropout=0.0, dtype=torch.float64):
    """A small tanh network, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        layers = [nn.Linear(4, 5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 3)]
        return nn.Sequential(*layers).to(dtype)


def test_loss(model):
    """The mean loss of the test examples, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return per_example(model(x_test.to(next(model.parameters()))), y_test).double().mean().item()


test_loss.__test__ = False  # for pytest: it is no test


def seed(number=3):
    """Every generator of a loop; the frame calls it before `taped` and before `plain`."""
    torch.manual_seed(number), random.seed(number), np.random.seed(number)
