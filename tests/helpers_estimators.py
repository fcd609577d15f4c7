"""Scores of an estimator on a fresh recording, and how close they must be."""

import torch
from torch import nn

from influencekit import Window, make, record

WINDOWS = [
    Window(0, 6),
    Window(2, 5),
    Window(1, 3, "window"),
    Window(0, 6, "window"),
    Window(3, 4, "occurrence"),
]
LOSSES = make("query", "test-losses")


def scores(name, workload, windows=WINDOWS, query=LOSSES, recorder="full"):
    estimator = make("estimator", name) if isinstance(name, str) else name
    return estimator.scores(record(workload, recorder), query, windows)


def close(found, expected, tolerance=1e-10):
    """Float64 sums of a few hundred terms round at 1e-14 of the largest; 1e-10 leaves room, and no more."""
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=tolerance)


class Linear(nn.Linear):
    def forward(self, x):
        return super().forward(x).squeeze(-1)
