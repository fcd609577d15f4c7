"""What the backward sweep of a first-order method needs besides its loop: sums, and questions at the door."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from influencekit._effects.adjoint import Signs
from influencekit._effects.query_gradient import check_query
from influencekit._training.state import State
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import DivergedError
from influencekit.interfaces import Contributions, Query
from influencekit.windows import Window

__all__ = ["Signs", "evaluations_of", "questions", "scores_from_contributions"]


def evaluations_of(windows: Sequence[Window], steps: int) -> list[Signs]:
    """What to evaluate: the windows' signed sums of states (by linearity one adjoint carries both q(stop) and
    -q(start)) or the states themselves, whichever are fewer."""
    signs = _signs(windows, steps)
    states = sorted({t for each in signs for t, _ in each})
    sums = list(dict.fromkeys(signs))
    return sums if len(sums) <= len(states) else [((t, 1),) for t in states]


def _signs(windows: Sequence[Window], steps: int) -> list[Signs]:
    return [tuple(sorted(w.evaluations(steps).items())) for w in windows]


def scores_from_contributions(
    trajectory: Trajectory,
    query: Query,
    windows: Sequence[Window],
    evaluations: Sequence[Signs],
    found: Iterable[Contributions],
) -> Tensor:
    """Scores [query, window, train]: the sums of contributions over the steps that each window removes from.

    Evaluation k of those `found` is evaluations[k], the signed sum of the effects at ((state, sign), ...): a
    window's own, or single states ((t, 1),) of which every window is made. Sign: removal minus full, if that
    is the contributions' own. Cost: one multiplication and addition a contribution and window. Errors:
    `DivergedError` where a sum is no finite number.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.extend import scores_from_contributions
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> query, dit = ik.make("query", "test-loss"), ik.make("estimator", "dit")
        >>> found = dit.contributions(run, query, [run.steps])
        >>> evaluations, windows = [((run.steps, 1),)], [ik.Window(0, run.steps)]
        >>> scores_from_contributions(run, query, windows, evaluations, found).shape
        torch.Size([1, 1, 24])
    """
    workload, n_query = trajectory.workload, len(query.labels(trajectory.workload))
    place = {each: k for k, each in enumerate(evaluations)}
    terms = [
        [(place[each], 1)] if each in place else [(place[((t, 1),)], sign) for t, sign in each]
        for each in _signs(windows, trajectory.steps)
    ]
    totals = workload.theta0.new_zeros(n_query, len(windows), workload.n_train)
    for part in found:
        rows, first = trajectory.step.rows(part.steps).flatten(), part.steps.start
        spans = [tuple(min(max(t, first), part.steps.stop) - first for t in w.absent()) for w in windows]
        here = [k for k, (low, high) in enumerate(spans) if low < high]
        counted = totals.new_zeros(len(here), len(evaluations), len(part.values))
        for row, k in enumerate(here):
            for column, sign in terms[k]:
                counted[row, column, slice(*spans[k])] = sign
        for q in set(part.query):
            mine = [k for k, other in enumerate(part.query) if other == q]
            weights = counted[:, [part.of[k] for k in mine]]
            summed = torch.einsum("wct,tcs->wts", weights, part.values[:, mine]).flatten(1)
            totals[q, here] += totals.new_zeros(len(here), workload.n_train).index_add_(1, rows, summed)
    if not totals.isfinite().all():
        raise DivergedError(
            "the contributions of this run grew beyond floating point, as they do where training is "
            "unstable; lower the learning rate, or record in float64"
        )
    return totals


def questions(
    trajectory: Trajectory, query: Query, curvature: str, begin: int, last: int
) -> Callable[[State], None]:
    """What is asked of the states of a sweep between `begin` and `last`. What autograd does not see may begin
    to act at any time: asked at each quarter, and at the end."""
    chosen = {last - 1, *(begin + (last - begin) * k // 4 for k in (1, 2, 3))}

    def ask(state: State) -> None:
        if state.step not in chosen:
            return
        if curvature == "hessian":
            trajectory.step.check_pull(state)
        if not trajectory.step.is_derivative(state):
            check_query(query, trajectory.workload.with_buffers(state.buffers), state.theta)

    return ask
