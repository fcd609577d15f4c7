"""What to say of scores that are not finite, or all 0: the query or the cause, where it shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from influencekit._training.checks.non_finite import LOOK_FOR, blamed
from influencekit._training.checks.padding import left_padding_first
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import DivergedError, InfluenceKitError, InputError, StoreError
from influencekit.interfaces import Query
from influencekit.registry import label
from influencekit.windows import Window

__all__ = ["naming_the_query", "zero_words"]


@contextmanager
def naming_the_query(trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Iterator[None]:
    """Numbers that are not finite inside the block are said to be the query's own, where they are."""
    try:
        yield
    except InfluenceKitError as error:  # a solver may call a right-hand side of NaN singular
        if isinstance(error, InputError | StoreError):
            raise
        said = _query_blamed(trajectory, query, windows)
        if said is None:
            raise
        raise DivergedError(said) from error


def _query_blamed(trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> str | None:
    for t in sorted({t for w in windows for t in w.evaluations(trajectory.steps)}):
        theta, workload = trajectory.evaluated(t).theta, trajectory.workload_at(t)
        with torch.no_grad():
            finite = bool(query.at(workload, theta)(theta).isfinite().all())
        if finite and bool(query.gradient(workload, theta).isfinite().all()):
            continue
        what = f"the query {label(query)}" if not finite else f"the gradient of the query {label(query)}"
        said = None
        if workload.test is not None:
            again = partial(workload.losses, theta)
            with torch.no_grad():
                losses = again(workload.test)
            ids = workload.test_ids or range(workload.n_test)
            target = workload.calls.target(workload.test)
            said = blamed(workload.test, target, losses, ids, again, "test example")
        said = said or f"{left_padding_first(workload.test)}{LOOK_FOR} in the model, the loss or the query"
        return f"{what} is NaN or infinite at state {t}: {said}"
    return None


def zero_words(trajectory: Trajectory, query: Query, windows: Sequence[Window], scores: Tensor) -> str:
    """What a result must say whose scores are all exactly 0, with the cause if it shows; else nothing."""
    known = scores[~scores.isnan()]
    if not len(known) or bool((known != 0).any()):
        return ""
    return f"all scores are exactly 0: {_cause(trajectory, query, windows)}"


def _cause(trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> str:
    plan, step = trajectory.plan, trajectory.step
    steps = sorted({t for w in windows for t in range(*w.absent())})
    if bool((plan.indices[steps] < 0).all()):
        return "no step of the window has an example"
    if bool((plan.lr[steps] == 0).all()):
        return "the learning rate is 0 in every step of the window"
    for t in sorted({t for w in windows for t in w.evaluations(trajectory.steps)}):
        theta = trajectory.evaluated(t).theta
        if bool(query.gradient(trajectory.workload_at(t), theta).any()):
            break
    else:
        return "the query does not depend on what is trained (its gradient is 0)"
    state = trajectory.state(steps[0])
    if not bool(step.gradient(state, step.coefficients(state.step))[0].any()):
        return f"the training loss has no gradient at step {state.step} (saturated, or the units are dead)"
    return "what training changes in these steps does not reach the query"
