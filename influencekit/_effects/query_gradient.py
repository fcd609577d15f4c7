"""The gradient of a query at a recorded state, and whether it is the derivative of the query's values."""

from collections.abc import Callable

from torch import Tensor
from torch.func import jacrev

from influencekit._effects.query_over_ranks import block_of_test, together
from influencekit._training.buffers import by_formula, flat, with_flat
from influencekit._training.checks.taylor import slopes_differ, some_vector
from influencekit._training.gradients import rows_of_jacobian
from influencekit._training.kernels.tracing import try_trace
from influencekit._training.pieces import pieces
from influencekit._training.state import State
from influencekit._training.workload import Workload, evaluated_with
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InputError
from influencekit.interfaces import Query
from influencekit.registry import label

__all__ = ["check_query", "query_gradient"]

_MANY = 8  # gradients of a query, from which on tracing them pays


def query_gradient(
    trajectory: Trajectory, query: Query, times: int
) -> Callable[[State], tuple[Tensor, Tensor]]:
    """The gradients of a query at a state: by theta [query, param], and by the buffers that training changes
    [query, buffer], which most models have none of.

    `times`: how often it will be asked; from 8 times on the gradient is traced, where that is possible.
    Cost: one gradient of the query a state. Errors: what the query refuses.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.extend import query_gradient
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> by_theta, by_buffers = query_gradient(run, ik.make("query", "test-loss"), 1)(run.final)
        >>> by_theta.shape == (1, run.workload.n_params), by_buffers.shape
        (True, torch.Size([1, 0]))
    """
    ranks, blocks = trajectory.step.ranks, None
    if ranks is not None and not trajectory.step.source.undivided:
        blocks = block_of_test(trajectory.workload, query, ranks)
    if ranks is None or blocks is None:
        return _gradient(trajectory, trajectory.workload, query, times)
    return together(_gradient(trajectory, blocks[0], query, times), blocks[1], ranks)


def _gradient(
    trajectory: Trajectory, workload: Workload, query: Query, times: int
) -> Callable[[State], tuple[Tensor, Tensor]]:
    n_query = len(query.labels(workload))

    def plain(state: State) -> tuple[Tensor, Tensor]:
        there = workload.with_buffers(state.buffers)
        g = query.gradient(there, state.theta)
        return g, _by_buffers(query, there, state)

    large = workload.test is not None and len(pieces(workload, workload.test)) > 1
    if times < _MANY or trajectory.step.joint or large:  # a trace would hold all pieces at once
        return plain
    known, key = trajectory.step.queries, (workload, query)  # runs with other test sets share a step
    if key not in known:
        theta = workload.theta0
        known[key] = try_trace(
            lambda theta: jacrev(query.at(workload, theta))(theta), theta, others=[(theta * 1.01,)],
            slow=lambda theta: query.gradient(workload, theta),
        )  # fmt: skip
    return lambda state: (known[key](state.theta), state.theta.new_zeros(n_query, 0))


def _by_buffers(query: Query, workload: Workload, state: State) -> Tensor:
    """Gradients [query, buffer] of the query by the buffers that it is evaluated with."""
    start = flat(state.buffers, state.theta)
    if not len(start):
        return start.new_zeros(len(query.labels(workload)), 0)
    at = query.at(workload, state.theta)

    def values(buffers: Tensor) -> Tensor:
        with evaluated_with(with_flat(state.buffers, buffers), by_formula):
            return at(state.theta)

    return rows_of_jacobian(values, start)


def check_query(query: Query, workload: Workload, theta: Tensor) -> None:
    """Refuse a query whose gradient is not the derivative of its values. Cost: a few evaluations of it."""

    def at(workload: Workload, theta: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        values = query.at(workload, theta)

        def summed(theta: Tensor) -> Tensor:
            found = values(theta)
            return found @ (1 + some_vector(found, 0.9) ** 2)

        return summed, theta

    if slopes_differ(lambda: at(workload.all_double(), theta.double()), lambda: at(workload, theta)):
        raise InputError(
            f"the gradient of {label(query)} is not the derivative of its values (the model or the loss "
            "detaches something, or has a backward of its own), so first-order scores would be wrong; use loo"
        )
