"""What to say of numbers that are not finite, or all 0: the examples or the cause, where it shows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from influencekit.errors import DivergedError, InfluenceKitError, InputError, StoreError
from influencekit.interfaces import Query
from influencekit.registry import label
from influencekit.step import State, Step
from influencekit.windows import Window
from influencekit.workload import Batch, like, tensors_of

if TYPE_CHECKING:
    from influencekit.trajectory import Trajectory

__all__ = ["blamed", "naming_the_query", "step_blamed", "zero_words"]

_LARGE = 1e4  # parameters beyond it have run away, and whatever became of the losses is their doing
_LOOK = "look for log, sqrt, norm or a division at 0"


# examples -----------------------------------------------------------------------------------------------


def blamed(
    batch: Batch, target: Any, losses: Tensor, ids: Sequence[Hashable],
    again: Callable[[Batch], Tensor] | None = None, kind: str = "example",
) -> str | None:  # fmt: skip
    """Which examples are behind losses [n] that are not finite, in words; None where none stands out.

    NaN and infinity in inputs may be meant (missing values, masks). So `again`, which gives the losses of
    another batch, is asked whether they are finite once these are 0; without it, what is not finite must be
    these examples' losses alone, or all losses. `target` is the batch's own tensor of targets.
    """
    bad = ~losses.detach().isfinite().cpu()
    tensors = tensors_of(batch)
    odd = [_odd(x) for x in tensors]
    guilty = bad & torch.stack(odd).any(0)
    if bool(guilty.any()) and again is not None:
        with torch.no_grad():
            mended = again(
                like(batch, [x.nan_to_num(0, 0, 0) if x.is_floating_point() else x for x in tensors])
            )
        guilty &= mended.isfinite().cpu()
    elif not bool(bad.all()) and bool((bad & ~guilty).any()):
        guilty = torch.zeros_like(guilty)
    for x, its in zip(tensors, odd, strict=True):
        if bool((its & guilty).any()):
            where = "targets" if x is target and len(tensors) > 1 else "inputs"
            what = "NaN" if bool(x.detach().cpu()[its & guilty].isnan().any()) else "infinity"
            return f"the {where} of {_who(its & guilty, ids, kind)} hold {what}; mend them, or leave them out"
    if 0 < int(bad.sum()) <= len(bad) // 2:
        return f"only the loss of {_who(bad, ids, kind)} is not finite; {_LOOK} there"
    return None


def _odd(x: Tensor) -> Tensor:
    """Which examples of a tensor hold something that is not finite, [n]."""
    if not x.is_floating_point():
        return torch.zeros(len(x), dtype=torch.bool)
    return (~x.detach().isfinite()).reshape(len(x), -1).any(1).cpu()


def _who(which: Tensor, ids: Sequence[Hashable], kind: str) -> str:
    """`example 3`, `examples 3, 5 and 8`, `examples 3, 5, 8 and 4 more`."""
    found = [str(ids[k]) for k in which.nonzero()[:, 0].tolist()]
    if len(found) == 1:
        return f"{kind} {found[0]}"
    last = found[-1] if len(found) <= 3 else f"{len(found) - 3} more"
    return f"{kind}s {', '.join(found[: min(3, len(found) - (len(found) <= 3))])} and {last}"


def step_blamed(step: Step, state: State, losses: Tensor) -> str:
    """Why the losses [slot] of a step, or the parameters after it, are not finite, and what to do."""
    workload, t = step.workload, state.step
    rows = step.plan.batch(t)
    batch = workload.examples(rows.to(workload.device))
    ids = workload.train_ids or range(workload.n_train)
    mine = losses[step.plan.indices[t].to(losses.device) >= 0]
    said = blamed(
        batch,
        workload.target(batch),
        mine,
        [ids[i] for i in rows.tolist()],
        partial(workload.losses, state.theta),
    )
    ran_away = not bool(state.theta.abs().max() < _LARGE)
    if said is not None and not (ran_away and said.startswith("only")):
        return said
    if bool(mine.isfinite().all()) and not ran_away:
        gradient = step.gradient(state, step.coefficients(t))[0]
        if not bool(gradient.isfinite().all()):
            return f"the losses are finite and their gradient is not; {_LOOK} in the model or the loss"
    return "lower the learning rate"


# queries ------------------------------------------------------------------------------------------------


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
        theta, workload = trajectory.state(t).theta, trajectory.workload_at(t)
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
            target = workload.target(workload.test)
            said = blamed(workload.test, target, losses, ids, again, "test example")
        said = said or f"{_LOOK} in the model, the loss or the query"
        return f"{what} is NaN or infinite at state {t}: {said}"
    return None


# all 0 --------------------------------------------------------------------------------------------------


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
        theta = trajectory.state(t).theta
        if bool(query.gradient(trajectory.workload_at(t), theta).any()):
            break
    else:
        return "the query does not depend on what is trained (its gradient is 0)"
    state = trajectory.state(steps[0])
    if not bool(step.gradient(state, step.coefficients(state.step))[0].any()):
        return f"the training loss has no gradient at step {state.step} (saturated, or the units are dead)"
    return "what training changes in these steps does not reach the query"
