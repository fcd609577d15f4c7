"""Scores of windows from what occurrences contribute."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from influencekit import Query, Trajectory, Window
from influencekit.adjoint import Shares

__all__ = ["added"]


def added(
    trajectory: Trajectory,
    query: Query,
    windows: Sequence[Window],
    shares: Callable[[Sequence[int], int], Iterator[Shares]],
) -> Tensor:
    """Scores [query, window, train]: sums of contributions, under each window's own removal.

        global [t1, t2):  sum_{t < t2} C[t2, t] - sum_{t < t1} C[t1, t]
        window:           sum_{t1 <= t < t2} C[t2, t]
        occurrence:       sum_{t1 <= t < t2} C[end of the run, t]

    `shares(states, begin)` gives C of the steps from `begin` on at each of the states, ascending.
    """
    workload, steps = trajectory.workload, trajectory.steps
    states = sorted({t for w in windows for t in w.evaluations(steps)})
    shape = (len(query.labels(workload)), len(windows), workload.n_train)
    totals = torch.zeros(shape, dtype=workload.dtype, device=workload.device)
    for part in shares(states, min(w.absent()[0] for w in windows)):
        rows, first = trajectory.step.rows(part.steps), part.steps.start
        for k, window in enumerate(windows):
            low, high = (min(max(t, first), part.steps.stop) - first for t in window.absent())
            if low == high:
                continue
            here = rows[low:high].flatten()
            for column, (e, q) in enumerate(zip(part.of, part.query, strict=True)):
                if sign := window.evaluations(steps).get(states[e], 0):
                    totals[q, k].index_add_(0, here, part.values[low:high, column].flatten(), alpha=sign)
    return totals
