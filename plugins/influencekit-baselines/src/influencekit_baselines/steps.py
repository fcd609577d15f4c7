"""Sums over the steps of a run in which a step counts by itself: no effect is carried on by curvature.

    C[t, j] = (1/b) <c_t, g_j(theta_t)>   for j in the batch of step t,   c_t a vector that the method chooses

A step adds the same to every later evaluation, so the three removals agree: a window sums over its steps.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from influencekit import Query, Trajectory, Window, Workload
from influencekit.extend import Contributions, State, query_gradient, step_products

__all__ = ["epoch_ends", "rates", "step_contributions", "step_sums"]

Direction = Callable[[State, Tensor], Tensor]  # (state, gradients of the query [query, param]) -> c_t


def step_contributions(
    trajectory: Trajectory, query: Query, states: Sequence[int], direction: Direction
) -> Iterator[Contributions]:
    """C for `contributions`, evaluated at each of `states`; 0 from the evaluation on."""
    n_query = len(query.labels(trajectory.workload))
    of = [k for k in range(len(states)) for _ in range(n_query)]
    for steps, values in _steps(trajectory, query, 0, max(states), direction):
        t = torch.arange(steps.start, steps.stop, device=values.device)
        before = (t[:, None] < t.new_tensor(list(states))).to(values.dtype)  # [step, evaluation]
        columns = before[:, :, None, None] * values[:, None]
        yield Contributions(steps, of, [*range(n_query)] * len(states), columns.flatten(1, 2))


def step_sums(
    trajectory: Trajectory, query: Query, windows: Sequence[Window], direction: Direction
) -> Tensor:
    """Scores [query, window, train]: sums of C over the steps of each window."""
    workload = trajectory.workload
    n_query = len(query.labels(workload))
    totals = workload.theta0.new_zeros(n_query, len(windows), workload.n_train)
    start, stop = min(w.start for w in windows), max(w.stop for w in windows)
    for steps, values in _steps(trajectory, query, start, stop, direction):
        first = steps.start
        for k, window in enumerate(windows):
            low, high = (min(max(t, first), steps.stop) for t in (window.start, window.stop))
            if low < high:
                rows = trajectory.step.rows(slice(low, high)).flatten()
                some = values[low - first : high - first].transpose(0, 1).flatten(1)
                totals[:, k].index_add_(1, rows, some)
    return totals


def _steps(
    trajectory: Trajectory, query: Query, start: int, stop: int, direction: Direction
) -> Iterator[tuple[slice, Tensor]]:
    """(steps, C [step, query, slot]) of lists of consecutive steps, the last list first."""
    gradient = query_gradient(trajectory, query, stop - start)
    return step_products(trajectory, start, stop, lambda state: direction(state, gradient(state)[0]))


def rates(workload: Workload, lrs: Sequence[float]) -> Tensor:
    """The learning rate of every parameter [param]: that of its group."""
    groups = [workload.layout.matching(group.params) for group in workload.optimizer.groups]
    which = [next((k for k, hit in enumerate(hits, 1) if hit), 0) for hits in zip(*groups, strict=True)]
    which = which or [0] * len(workload.layout.sizes)
    sizes = torch.tensor(workload.layout.sizes, device=workload.device)
    return workload.theta0.new_tensor([lrs[k] for k in which]).repeat_interleave(sizes)


def epoch_ends(trajectory: Trajectory) -> list[int]:
    """The last step of every epoch, ascending."""
    epoch = trajectory.plan.epoch.tolist()
    return [t for t in range(len(epoch)) if t + 1 == len(epoch) or epoch[t + 1] != epoch[t]]
