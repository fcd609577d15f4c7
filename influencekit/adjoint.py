"""The backward sweep: one pass over a trajectory gives every example's first-order effect on a query.

    a <- q(e);   for t = e-1 ... :   (c, a) <- optimizer adjoint of a;   Q_j += -<c, g_j>/b;   a <- a + H_t c

Several queries and windows are columns of one adjoint [column, param].
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from influencekit.errors import DivergedError
from influencekit.interfaces import Query
from influencekit.step import State
from influencekit.trajectory import Trajectory
from influencekit.windows import Window

__all__ = ["sweep"]

_ROOM = 1 << 30  # bytes that the columns of one pass may take; more columns, more passes


def sweep(
    trajectory: Trajectory, query: Query, windows: Sequence[Window], curvature: str = "hessian"
) -> Tensor:
    """First-order effects [query, window, train] (removal minus full) under each window's own removal.

    A window is one column per query: by linearity a single adjoint carries both q(stop) and -q(start).
    Cost: about one curvature product per step, whatever the number of examples; more windows and queries
    cost less than proportionally, until memory asks for a second pass.
    """
    n_query = len(query.labels(trajectory.workload))
    columns = [(q, window) for q in range(n_query) for window in windows]
    room = trajectory.step.room(_ROOM)
    parts = [
        _sweep(trajectory, query, columns[i : i + room], curvature) for i in range(0, len(columns), room)
    ]
    totals = torch.cat(parts).view(n_query, len(windows), trajectory.workload.n_train)
    if not totals.isfinite().all():
        raise DivergedError(
            "the adjoint of this run grew beyond floating point, as it does where training is unstable; "
            "lower the learning rate, or record in float64"
        )
    return totals


def _sweep(
    trajectory: Trajectory, query: Query, columns: Sequence[tuple[int, Window]], curvature: str
) -> Tensor:
    """Effects [column, train] of (query, window) pairs that fit in memory together."""
    workload, plan, step = trajectory.workload, trajectory.plan, trajectory.step
    queries = [q for q, _ in columns]
    evaluations = [w.evaluations(trajectory.steps) for _, w in columns]
    counted = [w.absent() for _, w in columns]
    when = set().union(*evaluations)
    end = max(when)
    begin = min(start for start, _ in counted)
    linear = step.linear(curvature, len(columns))
    a = torch.zeros(len(columns), workload.n_params, dtype=workload.dtype, device=workload.device)
    slots = {name: a for name in workload.optimizer.slots}
    totals = a.new_zeros(len(columns), workload.n_train)

    def inject(state: State) -> None:
        nonlocal a
        if state.step in when:
            signs = [e.get(state.step, 0) for e in evaluations]
            gradient = query.gradient(workload.with_buffers(state.buffers), state.theta)
            a = a + gradient[queries] * a.new_tensor(signs)[:, None]

    with torch.no_grad():
        following = trajectory.state(end)
        for block in trajectory.blocks(begin, end):
            shares = []
            for state, products in linear.backwards(block):
                t = state.step
                inject(following)
                following = state
                needed = workload.optimizer.needs_gradient()
                gradient = step.gradient(state, step.coefficients(t))[0] if needed else None
                c, a, slots = workload.optimizer.pullback(
                    workload.layout, state.theta, state.slots, gradient, plan.updates + t, plan.lrs(t),
                    a, slots,
                )  # fmt: skip
                product, share = products(c)
                a = a + product
                shares.append(share)
            span = slice(block[0].step, block[0].step + len(block))
            inside = [[start <= t < stop for start, stop in counted] for t in range(span.start, span.stop)]
            weights = a.new_tensor(inside)[:, :, None] * step.coefficients(span)[:, None]
            values = torch.stack(shares[::-1]) * weights  # [step, column, slot]
            totals.index_add_(1, step.rows(span).flatten(), values.transpose(0, 1).flatten(1), alpha=-1)
    return totals
