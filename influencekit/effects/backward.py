"""The backward sweep: one pass over a trajectory gives every example's first-order effect on a query.

    a <- q(e);  for t = e-1 ...:  (c, a) <- optimizer adjoint of a;  C[e, t, j] = -<c, g_j>/b;  a <- a + H_t c

Several evaluation times e and queries are columns of one adjoint [column, param]. A column begins where the
sweep, on its way back, meets the first state that it evaluates.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from influencekit.effects.query_gradient import check_query, query_gradient
from influencekit.errors import DivergedError
from influencekit.interfaces import Contributions, Query
from influencekit.training.buffers import flat
from influencekit.training.state import State
from influencekit.trajectory.trajectory import Trajectory
from influencekit.windows import Window

__all__ = ["Signs", "scores_from_contributions", "contributions", "sweep"]

Signs = tuple[tuple[int, int], ...]  # (state, sign): the signed sum of q's effects at these states

_MEMORY = 1 << 30  # bytes that the columns of one pass may take; more columns, more passes


def sweep(
    trajectory: Trajectory, query: Query, windows: Sequence[Window], curvature: str = "hessian"
) -> Tensor:
    """First-order effects [query, window, train] (removal minus full) under each window's own removal.

    Columns are the windows' signed sums of evaluations (by linearity one adjoint carries both q(stop) and
    -q(start)) or the states evaluated, whichever are fewer, times the queries.
    Cost: about one curvature product per step, whatever the number of examples; more columns cost less than
    proportionally, until memory asks for a second pass.
    """
    signs = [tuple(sorted(w.evaluations(trajectory.steps).items())) for w in windows]
    columns: list[Signs] = list(dict.fromkeys(signs))
    states = sorted({t for each in signs for t, _ in each})
    if len(states) < len(columns):
        columns = [((t, 1),) for t in states]
    begin = min(w.absent()[0] for w in windows)
    totals = scores_from_contributions(
        trajectory, query, windows, columns, contributions(trajectory, query, columns, begin, curvature)
    )
    if not totals.isfinite().all():
        raise DivergedError(
            "the adjoint of this run grew beyond floating point, as it does where training is unstable; "
            "lower the learning rate, or record in float64"
        )
    return totals


def scores_from_contributions(
    trajectory: Trajectory,
    query: Query,
    windows: Sequence[Window],
    columns: Sequence[Signs],
    parts: Iterable[Contributions],
) -> Tensor:
    """Scores [query, window, train]: the sums of contributions over the steps that each window removes from.

    Evaluation k of the `parts` is that of columns[k], the signed sum of the effects at ((state, sign), ...):
    a window's own, or single states ((t, 1),) of which every window is made. Sign: removal minus full, if
    that is the contributions' own. Cost: one multiplication and addition a contribution and window.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.extend import scores_from_contributions
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> query, dit = ik.make("query", "test-loss"), ik.make("estimator", "dit")
        >>> parts = dit.contributions(run, query, [run.steps])
        >>> columns, windows = [((run.steps, 1),)], [ik.Window(0, run.steps)]
        >>> scores_from_contributions(run, query, windows, columns, parts).shape
        torch.Size([1, 1, 24])
    """
    workload, n_query = trajectory.workload, len(query.labels(trajectory.workload))
    place = {each: k for k, each in enumerate(columns)}
    signs = [tuple(sorted(w.evaluations(trajectory.steps).items())) for w in windows]
    terms = [
        [(place[each], 1)] if each in place else [(place[((t, 1),)], sign) for t, sign in each]
        for each in signs
    ]
    totals = torch.zeros(
        n_query, len(windows), workload.n_train, dtype=workload.dtype, device=workload.device
    )
    for part in parts:
        rows, first = trajectory.step.rows(part.steps).flatten(), part.steps.start
        spans = [tuple(min(max(t, first), part.steps.stop) - first for t in w.absent()) for w in windows]
        here = [k for k, (low, high) in enumerate(spans) if low < high]
        counted = totals.new_zeros(len(here), len(columns), len(part.values))
        for row, k in enumerate(here):
            for column, sign in terms[k]:
                counted[row, column, slice(*spans[k])] = sign
        for q in set(part.query):
            mine = [k for k, other in enumerate(part.query) if other == q]
            weights = counted[:, [part.of[k] for k in mine]]
            summed = torch.einsum("wct,tcs->wts", weights, part.values[:, mine]).flatten(1)
            totals[q, here] += totals.new_zeros(len(here), workload.n_train).index_add_(1, rows, summed)
    return totals


def contributions(
    trajectory: Trajectory, query: Query, evaluations: Sequence[Signs], begin: int, curvature: str = "hessian"
) -> Iterator[Contributions]:
    """What every occurrence from step `begin` on contributes to q's effect at each of `evaluations`.

    Last steps first; a step may come more than once, with other columns, where memory asks for several
    passes. Values are 0 for steps after the evaluation and for padded slots.
    """
    order = sorted(range(len(evaluations)), key=lambda k: -evaluations[k][-1][0])
    columns = [(k, q) for k in order for q in range(len(query.labels(trajectory.workload)))]
    gradient = query_gradient(trajectory, query, len({t for each in evaluations for t, _ in each}))
    room = trajectory.step.capacity(_MEMORY)

    def check(state: State) -> None:
        """What autograd does not see may begin to act at any time: asked in the middle, and at the end."""
        if curvature == "hessian":
            trajectory.step.check_pull(state)
        if not trajectory.step.is_derivative(state):
            check_query(query, trajectory.workload.with_buffers(state.buffers), state.theta)

    for i in range(0, len(columns), room):
        of, queries = (list(x) for x in zip(*columns[i : i + room], strict=True))
        signs = [dict(evaluations[k]) for k in of]
        for steps, values in _pass(trajectory, signs, queries, gradient, begin, curvature, check):
            yield Contributions(steps, of, queries, values)


def _pass(
    trajectory: Trajectory, signs: Sequence[dict[int, int]], queries: Sequence[int],
    gradient: Callable[[State], tuple[Tensor, Tensor]], begin: int, curvature: str,
    check: Callable[[State], None],
) -> Iterator[tuple[slice, Tensor]]:  # fmt: skip
    """Values [step, column, slot] of columns that fit in memory together, the latest evaluation first."""
    workload, plan, step = trajectory.workload, trajectory.plan, trajectory.step
    when, lasts = set().union(*signs), [max(each) for each in signs]
    linear = step.linear(curvature)
    a = torch.zeros(0, workload.n_params, dtype=workload.dtype, device=workload.device)
    slots = {name: a for name in workload.optimizer.slots}
    following = trajectory.state(lasts[0])
    moved = a.new_zeros(0, len(flat(following.buffers, a)))  # the adjoint of the buffers

    def inject(state: State) -> None:
        nonlocal a, slots, moved
        if state.step not in when:
            return
        started = lasts.count(state.step)
        a, moved, *rest = (
            torch.cat([x, x.new_zeros(started, x.shape[1])]) for x in (a, moved, *slots.values())
        )
        slots = dict(zip(slots, rest, strict=True))
        sign = a.new_tensor([each.get(state.step, 0) for each in signs[: len(a)]])[:, None]
        of_theta, of_buffers = gradient(state)
        a = a + of_theta[queries[: len(a)]] * sign
        moved = moved + of_buffers[queries[: len(a)]] * sign

    asked = {lasts[0] - 1, (begin + lasts[0]) // 2}
    with torch.no_grad():
        for block in trajectory.blocks(begin, lasts[0]):
            span = slice(block[0].step, block[0].step + len(block))
            coefficients = step.coefficients(span)
            values = a.new_zeros(len(block), len(signs), coefficients.shape[1])
            for state, products in linear.backwards(block):
                t = state.step
                if t in asked:
                    check(state)
                inject(following)
                following = state
                needed = workload.optimizer.needs_gradient()
                g = step.gradient(state, step.coefficients(t))[0] if needed else None
                c, a, slots = workload.optimizer.pullback(
                    workload.layout, state.theta, state.slots, g, plan.updates + t, plan.lrs(t), a, slots
                )
                product, share, moved = products(c, moved)
                a = a + product
                values[t - span.start, : len(a)] = share
            del block, products, state  # before the next states are computed
            yield span, values * -coefficients[:, None]
