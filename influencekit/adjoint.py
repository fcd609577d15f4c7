"""The backward sweep: one pass over a trajectory gives every example's first-order effect on a query.

    a <- q(e);   for t = e-1 ... :   (c, a) <- optimizer adjoint of a;   Q_j += -<c, g_j>/b;   a <- a + H_t c

Several queries and windows are columns of one adjoint [column, param].
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from influencekit.interfaces import Query
from influencekit.trajectory import Trajectory
from influencekit.windows import Window

__all__ = ["sweep"]


def sweep(
    trajectory: Trajectory, query: Query, windows: Sequence[Window], curvature: str = "hessian"
) -> Tensor:
    """First-order effects [query, window, train] (removal minus full) under each window's own removal.

    A window is one column per query: by linearity a single adjoint carries both q(stop) and -q(start).
    Cost: about one curvature product per step, whatever the number of examples.
    """
    workload, steps, plan = trajectory.workload, trajectory.steps, trajectory.plan
    evaluations = [w.evaluations(steps) for w in windows]
    counted = [w.absent() for w in windows]
    end = max(max(e) for e in evaluations)
    begin = min(start for start, _ in counted)
    n_query = len(query.labels(workload))
    columns = n_query * len(windows)
    linear = trajectory.step.linear(curvature, columns)
    a = torch.zeros(columns, workload.n_params, dtype=workload.dtype, device=workload.device)
    slots = {name: a for name in workload.optimizer.slots}
    totals = a.new_zeros(columns, workload.n_train)

    def inject(t: int, theta: Tensor) -> None:
        nonlocal a
        signs = [e.get(t, 0) for e in evaluations]
        if any(signs):
            gradients = query.gradient(workload, theta)[:, None]
            sign = torch.tensor(signs, dtype=a.dtype, device=a.device)[None, :, None]
            a = a + (gradients * sign).flatten(0, 1)

    with torch.no_grad():
        following = trajectory.state(end).theta
        for block in trajectory.blocks(begin, end):
            shares = []
            for state, products in linear.backwards(block):
                t = state.step
                inject(t + 1, following)
                following = state.theta
                gradient = None
                if workload.optimizer.needs_gradient():
                    gradient = trajectory.step.gradient(state, trajectory.step.coefficients(t))[0]
                c, a, slots = workload.optimizer.pullback(
                    workload.layout, state.theta, state.slots, gradient, t, plan.lrs(t), a, slots
                )
                product, share = products(c)
                a = a + product
                shares.append(share)
            span = slice(block[0].step, block[0].step + len(block))
            inside = [[start <= t < stop for start, stop in counted] for t in range(span.start, span.stop)]
            mask = torch.tensor(inside, dtype=a.dtype, device=a.device).repeat(1, n_query)
            weights = mask[:, :, None] * trajectory.step.coefficients(span)[:, None]
            values = torch.stack(shares[::-1]) * weights  # [step, column, slot]
            totals.index_add_(
                1, trajectory.step.rows(span).flatten(), values.transpose(0, 1).flatten(1), alpha=-1
            )
    return totals.view(n_query, len(windows), workload.n_train)
