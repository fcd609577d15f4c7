"""Metrics of two sets of scores."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from benchmarks.shared.odd.common import share_kind, top_kind
from benchmarks.shared.odd.drawing import Callee, Later, of
from benchmarks.shared.odd.values import Value, bad, number
from influencekit import metrics

__all__ = ["METRICS"]


def scores_kind(r: random.Random) -> Value:
    x = [1.0, 3.0, 2.0, 4.0, 7.0]
    plain = torch.tensor(x)
    good = [plain, plain.double(), plain.int(), plain.half(), plain.clone().requires_grad_(), plain.clone()]
    odd = bad(
        x, np.array(x), None, "x", plain[:4], torch.tensor([float("nan"), *x[1:]]),
        torch.tensor([float("inf"), *x[1:]]), plain + 0j, torch.tensor(1.0), torch.zeros(0),
        torch.zeros(5, device="meta"), plain.to_sparse(), 3, object(),
    )  # fmt: skip
    it = r.choice(good)
    return r.choice([Value(f"tensor {it.dtype}", it, plain), *odd])


def scores_alone(r: random.Random) -> Value:
    """Scores that are odd also where there is nothing they must be as many as."""
    while isinstance((found := scores_kind(r)).it, torch.Tensor) and found.it.shape == (4,):
        pass
    return found


def metric(function: Any) -> Callee:
    x, y = torch.tensor([2.0, 1.0, 4.0, 3.0, 9.0]), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    return of(
        function, {"x": x, "y": y}, x=Later("tensor", also=(scores_kind,)), y=Later(also=(scores_kind,))
    )


METRICS: tuple[Callee, ...] = (
    *map(metric, (metrics.pearson, metrics.spearman, metrics.kendall, metrics.agreement)),
    of(
        metrics.jaccard,
        {"x": torch.tensor([2.0, 1.0, 4.0]), "y": torch.tensor([1.0, 2.0, 3.0])},
        fraction=share_kind,
        top=top_kind,
    ),
    of(
        metrics.border_ties,
        {"x": torch.tensor([2.0, 2.0, 1.0, 4.0])},
        x=Later("tensor", also=(scores_alone,)),
        fraction=share_kind,
        top=top_kind,
        resolution=number([0.5, 0.0], [-1.0], none=True),
    ),
    of(metrics.top_words, top=top_kind),
)
