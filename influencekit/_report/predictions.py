"""What the trained model makes of examples: its class or its number, and the loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from influencekit._training.accuracy import logits_of
from influencekit._training.batch import Batch, tensors_of
from influencekit._training.pieces import pieces
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.results import class_name

__all__ = ["Judged", "judged"]

_PIECE = 256


class Judged(NamedTuple):
    """Losses [example] and predictions in words, None where a prediction is no single class or number."""

    loss: np.ndarray
    prediction: list[str | None]


def judged(run: Trajectory, batches: Iterable[Batch]) -> Judged:
    """Of examples that come in pieces, by what queries read at the end of the run. Cost: a forward pass each.

    A class is shown only where the library's own accuracy counts the same examples as right.
    """
    workload, theta = run.workload_at(run.last), run.evaluated(run.last).theta
    losses, words = list[np.ndarray](), list[str | None]()
    for batch in (piece for whole in batches for piece in pieces(workload, whole)):
        with torch.no_grad():
            losses.append(workload.losses(theta, batch).detach().double().cpu().numpy())
            outputs = logits_of(workload.outputs(theta, batch))
        words += _words(workload, theta, batch, outputs)
    return Judged(np.concatenate(losses) if losses else np.zeros(0), words)


def _words(workload: Workload, theta: Tensor, batch: Batch, outputs: Tensor | None) -> list[str | None]:
    count = len(tensors_of(batch)[0])
    target: Any = workload.calls.target(batch)
    if outputs is None or not isinstance(target, Tensor) or len(outputs) != count:
        return [None] * count
    if target.numel() != count:
        return [None] * count
    own = target.reshape(-1)
    if outputs.dim() == 2 and outputs.shape[1] > 1:
        readings = [outputs.argmax(1)]
    elif outputs.numel() == count:
        readings = [(outputs.reshape(-1) > limit).long() for limit in (0.0, 0.5)]
    else:
        return [None] * count
    right = workload.judge(theta, batch).value
    for guess in readings:
        if abs(float((guess == own).double().mean()) - right) < 0.5 / count:
            return [class_name(int(g), workload.info) for g in guess.tolist()]
    if outputs.numel() == count and own.is_floating_point():
        return [f"{v:.4g}" for v in outputs.reshape(-1).tolist()]  # a regression
    return [None] * count
