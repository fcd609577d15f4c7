"""Which windows are looked at: spans of absence share retrainings, and their cost has a bound."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from influencekit._effects.retrain import spans
from influencekit._trajectory.trajectory import Trajectory
from influencekit.windows import Window

__all__ = ["RUNS", "Span", "draw", "looked_at", "visited"]

RUNS = 8.0  # whole training runs that the spans of one call amount to, for each example that is left out
_SPANS = 32  # each is a batch of its own


class Span(NamedTuple):
    """Steps of absence, the windows (by number) that share its retrainings, and the cost of one of them.

    `runs` is that cost in whole training runs: a retraining goes from the first step of absence to the last
    state that one of the windows reads.
    """

    absent: tuple[int, int]
    members: list[int]
    runs: float


def looked_at(
    windows: Sequence[Window], steps: int, last_read: Callable[[int], int] = lambda t: t
) -> list[Span]:
    """The spans of absence of these windows of so many steps, as many as cost no more than `RUNS` together.

    `last_read`: the last state that is read where one is asked for. All windows of global removal are one
    span. Of too many, some are taken, evenly from the first to the last; the first is always among them.
    """
    found = []
    for absent, members in sorted(spans(windows, steps).items()):
        reads = {t for k in members for t in windows[k].evaluations(steps)}
        found.append(Span(absent, members, (max(map(last_read, reads)) - absent[0]) / steps))
    count = min(len(found), _SPANS)
    while True:
        some = [found[k] for k in np.unique(np.linspace(0, len(found) - 1, count).round().astype(int))]
        if count == 1 or sum(span.runs for span in some) <= RUNS:
            return some
        count -= 1


def visited(trajectory: Trajectory, span: tuple[int, int]) -> Tensor:
    """Which examples [train] the batches of these steps hold."""
    indices = trajectory.plan.indices[slice(*span)]
    here = torch.zeros(trajectory.workload.n_train, dtype=torch.bool)
    here[indices[indices >= 0]] = True
    return here


def draw(known: Tensor, order: Tensor, count: int) -> Tensor:
    """The first so many positions of a random order that are known [train], ascending: spans that know the
    same examples draw the same ones."""
    return order[known[order]][:count].sort().values
