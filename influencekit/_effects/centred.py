"""The run with less weight on every example: along it the derivative for sets is taken.

    f(w_S) ~ f(A 1) + grad f(A 1) . (w_S - A 1)

f is a window's effect on the query, and w_S is 0 on the examples of a set and 1 on the others. In the step of
Adam and its kin a weight on all examples cancels; there f(A 1) is the run whose v has the spread that random
sets of a fraction A give it (`Spread`), which is held fixed in the derivative.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from influencekit._effects.retrain import Models, query_at
from influencekit._training.buffers import by_formula, flat, with_flat
from influencekit._training.gradients import rows_of_jacobian
from influencekit._training.optimizers import SGD
from influencekit._training.spread import Spread, takes_spread
from influencekit._training.state import State
from influencekit._training.workload import evaluated_with
from influencekit._trajectory.rerun import remembered, rerun
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InputError
from influencekit.interfaces import Query
from influencekit.windows import Window

__all__ = ["centred", "change_of_query", "gradient_as_recorded"]


def centred(trajectory: Trajectory, weight: float, absent: tuple[int, int]) -> Trajectory:
    """The run trained again with `weight` on every example in the steps of `absent`, 1 outside of them.

    Kept for the next query: the last two. Cost: a training run, once; for Adam and its kin with a gradient of
    every single example. Errors: as `rerun`; another optimizer.
    """
    optimizer = trajectory.workload.optimizer
    if not (isinstance(optimizer, SGD) or takes_spread(optimizer)):
        raise InputError(
            "dit:centre is for SGD, Adam, AdamW, NAdam and RAdam (beta2 above 0), and this run used "
            f"{type(optimizer).__name__}; use dit"
        )

    def train() -> Trajectory:
        each = torch.ones(trajectory.steps, dtype=torch.float64)
        each[slice(*absent)] = weight
        squares = takes_spread(trajectory.workload.optimizer)
        return rerun(trajectory, each, prepare=Spread(each) if squares else None)

    found = remembered(trajectory, ("weight", weight, absent), train)
    return found if found.ending is trajectory.ending else found.with_ending(trajectory.ending)


def change_of_query(
    trajectory: Trajectory, other: Trajectory, query: Query, windows: Sequence[Window]
) -> Tensor:
    """f of another run of these batches minus f of the recorded one, [query, window].

    Cost: two evaluations of the query a state that the windows read.
    """
    signs = [window.evaluations(trajectory.steps) for window in windows]
    when = sorted(set().union(*signs))
    values_of, changes = query_at(trajectory, query, when), {}
    for t in when:
        state, own = other.evaluated(t), trajectory.evaluated(t)
        buffers = flat(state.buffers, state.theta)[None] if state.buffers else None
        changes[t] = values_of(Models([0], t, state.theta[None], own.theta, buffers, own.buffers))[:, 0]
    return torch.stack([torch.stack([s * changes[t] for t, s in each.items()]).sum(0) for each in signs], 1)


def gradient_as_recorded(trajectory: Trajectory, query: Query) -> Callable[[State], tuple[Tensor, Tensor]]:
    """The gradients of a query that the recorded run defines (`Query.at`), at states of another run.

    A function of such a state that gives [query, param], and by the buffers that training changes [query,
    buffer]: what `query_gradient` is at the run's own states.
    """

    def gradient(state: State) -> tuple[Tensor, Tensor]:
        t = state.step
        at = query.at(trajectory.workload_at(t), trajectory.evaluated(t).theta)
        start = flat(state.buffers, state.theta)

        def of_buffers(buffers: Tensor) -> Tensor:
            with evaluated_with(with_flat(state.buffers, buffers), by_formula):
                return at(state.theta)

        with evaluated_with(state.buffers):
            by_theta = rows_of_jacobian(at, state.theta)
        if not len(start):
            return by_theta, start.new_zeros(len(by_theta), 0)
        return by_theta, rows_of_jacobian(of_buffers, start)

    return gradient
