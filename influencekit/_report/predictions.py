"""What the trained model makes of examples: its class or its number, and the loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from influencekit._training.accuracy import accuracy_and_threshold, logits_of
from influencekit._training.batch import Batch, tensors_of
from influencekit._training.pieces import pieces
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.results import class_name

__all__ = ["Judged", "judged"]


class Judged(NamedTuple):
    """Losses [example] and predictions in words, None where a prediction is no single class or number.
    `numbers`: targets and predictions are numbers, of a regression, and no classes."""

    loss: np.ndarray
    prediction: list[str | None]
    numbers: bool = False


def judged(run: Trajectory, batches: Iterable[Batch]) -> Judged:
    """Of examples that come in pieces, by what queries read at the end of the run. Cost: a forward pass each.

    A class is shown only where the library's own accuracy counts the same examples as right, and of one
    output by the threshold that this accuracy takes.
    """
    workload, theta = run.workload_at(run.last), run.evaluated(run.last).theta
    losses, seen = list[np.ndarray](), list[tuple[Tensor, Tensor] | int]()
    real = list[bool]()

    def parts() -> Iterator[tuple[Any, Any, Batch]]:
        for batch in (piece for whole in batches for piece in pieces(workload, whole)):
            with torch.no_grad():
                losses.append(workload.losses(theta, batch).detach().double().cpu().numpy())
                outputs, target = workload.outputs(theta, batch), workload.calls.target(batch)
            real.append(isinstance(target, Tensor) and target.is_floating_point())
            seen.append(_seen(outputs, target, len(tensors_of(batch)[0])))
            yield outputs, target, batch

    stream = parts()
    if (first := next(stream, None)) is None:
        return Judged(np.zeros(0), [])
    accuracy, above = accuracy_and_threshold(chain([first], stream), workload.loss)
    for _ in stream:  # which accuracy leaves where it gives up
        pass
    numbers = all(real) and accuracy.value != accuracy.value
    return Judged(np.concatenate(losses), _words(workload, accuracy.value, above, seen, numbers), numbers)


def _seen(outputs: Any, target: Any, count: int) -> tuple[Tensor, Tensor] | int:
    """The target of each example, and its class or its one output; where there is none, how many they are."""
    z = logits_of(outputs)
    if z is None or not isinstance(target, Tensor) or len(z) != count or target.numel() != count:
        return count
    if z.dim() == 2 and z.shape[1] > 1:
        return target.reshape(-1), z.argmax(1)
    return (target.reshape(-1), z.detach().reshape(-1)) if z.numel() == count else count


def _words(
    workload: Workload,
    accuracy: float,
    above: float | None,
    seen: list[tuple[Tensor, Tensor] | int],
    numbers: bool,
) -> list[str | None]:
    pairs = [each for each in seen if not isinstance(each, int)]
    if len(pairs) < len(seen):
        return [None] * sum(each if isinstance(each, int) else len(each[0]) for each in seen)
    own, value = (torch.cat(each) for each in zip(*pairs, strict=True))
    if above is not None:
        lower = -1 if bool((own == -1).any()) else 0  # as accuracy reads targets -1 and 1
        classes = torch.where(value > above, 1, lower)
    elif not value.is_floating_point():
        classes = value
    else:
        return [f"{v:.4g}" if numbers else None for v in value.tolist()]
    if abs(float((classes == own).double().mean()) - accuracy) < 0.5 / len(own):
        return [class_name(int(g), workload.info) for g in classes.tolist()]
    return [None] * len(own)
