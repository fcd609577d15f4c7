"""Runs whose examples have parts, a slow and obviously right answer, and the laws of who claims PARTS.

Nothing of the answer uses `influencekit._training.by_part`: every part has a weight in a plain loop.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor
from torch.func import grad, jacrev

from influencekit._training.batch import select
from influencekit._training.loss_by_part import Parts
from influencekit._training.optimizer import Optimizer
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.estimate import estimate
from influencekit._verbs.record import record
from influencekit.errors import InputError
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.testing.oracle import tiny_workload
from influencekit.testing.setting import OPTIMIZERS, TOLERANCE, agree, queries, windows_of
from influencekit.windows import Window

__all__ = ["PARTS_LAWS", "effect_by_part", "gradient_by_part", "parted_workload"]

_RUNS = ("sgd with momentum", "adamw")
_SOME = 3  # parts that are left out by retraining


def parted_workload(optimizer: Optimizer | None = None, l2: float = 0.05) -> Workload:
    """`tiny_workload` of three features that are learnt one by one: each is a part, with a weight of its own.

    Features below -0.8 are missing, so examples have different numbers of parts.

    Example:

        >>> from influencekit.testing import parted_workload
        >>> work = parted_workload()
        >>> work.calls.parts(work.train, work.train).weights.shape
        torch.Size([8, 3])
    """
    return replace(tiny_workload(optimizer, batches="tensor", l2=l2), loss=_by_feature)


def _by_feature(outputs: Tensor, target: Tensor) -> Parts:
    each = torch.arange(1, target.shape[1] + 1).to(target)
    return Parts((outputs - target).square(), each * (target > -0.8))


def effect_by_part(workload: Workload, query: Query, window: Window, change: Tensor) -> Tensor:
    """The window's effect on the query [query] when the weights of parts are lowered by change [train, part].

    By a plain loop over the whole run, differentiable in `change`. A part carries the n-th part of the
    penalty of its example, which has n. Change 1 leaves a part out.

    Example:

        >>> import torch
        >>> import influencekit as ik
        >>> from influencekit.testing import effect_by_part, parted_workload
        >>> work, change = parted_workload(), torch.zeros(8, 3, dtype=torch.float64)
        >>> effect_by_part(work, ik.make("query", "test-loss"), ik.Window(0, 6), change).tolist()
        [0.0]
    """
    base = _run(workload, window, torch.zeros_like(change))
    other = _run(workload, window, change)
    found = [
        sign * (query.at(workload, base[t])(other[t]) - query.at(workload, base[t])(base[t]))
        for t, sign in window.evaluations(workload.plan.steps).items()
    ]
    return torch.stack(found).sum(0)


def _run(workload: Workload, window: Window, change: Tensor) -> list[Tensor]:
    """theta [param] of every state, trained with the weights 1 - change in the steps of absence."""
    plan, theta = workload.plan, workload.theta0
    slots, start_stop, states = workload.optimizer.start(theta), window.absent(), [theta]
    for t in range(plan.steps):
        rows = plan.batch(t)
        batch, weights = select(workload.train, rows), 1 - change[rows] * (start_stop[0] <= t < start_stop[1])

        def loss(theta: Tensor, batch: Tensor = batch, weights: Tensor = weights) -> Tensor:  # type: ignore[assignment]
            found = workload.calls.parts(workload.outputs(theta, batch), batch)
            there = (found.weights != 0).to(theta)
            kept = (weights * there).sum(1) / there.sum(1)
            each = (weights * found.weights * found.losses).sum(1) + kept * (
                0.5 * workload.l2 * theta @ theta
            )
            return each.sum() / len(each)

        theta, slots = workload.optimizer.step(
            workload.layout, theta, slots, grad(loss)(theta), t, plan.lrs(t)
        )
        states.append(theta)
    return states


def gradient_by_part(workload: Workload, query: Query, window: Window) -> Tensor:
    """First-order effects [query, train, part] by autodiff through the whole unrolled run.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.testing import gradient_by_part, parted_workload
        >>> gradient_by_part(parted_workload(), ik.make("query", "test-loss"), ik.Window(0, 6)).shape
        torch.Size([1, 8, 3])
    """
    zero = torch.zeros(_there(workload).shape, dtype=workload.dtype, device=workload.device)
    return jacrev(lambda change: effect_by_part(workload, query, window, change))(zero).detach()


def _there(workload: Workload) -> Tensor:
    outputs = workload.outputs(workload.theta0, workload.train)
    return workload.calls.parts(outputs, workload.train).weights != 0


@cache
def _recorded(name: str) -> Trajectory:
    return record(parted_workload(OPTIMIZERS[name]))


def _runs(estimator: Estimator) -> Iterator[tuple[str, Trajectory]]:
    for name in _RUNS:
        run = _recorded(name)
        try:
            estimator.scores(run, queries(), [Window(0, run.steps)])
        except InputError:  # an optimizer that it does not take
            continue
        yield name, run


def parts_add_up_to_their_example(estimator: Estimator) -> None:
    """The scores of the parts of an example are its own in sum; NaN where there is no part, and only there.

    Of who retrains: they are what the same weights give in a plain loop.
    """
    law = "parts add up to their example"
    for name, run in _runs(estimator):
        windows, workload = windows_of(estimator, run.steps), run.workload
        found = torch.from_numpy(estimate(run, queries(), estimator, windows, parts=True).influence.values)
        there = _there(workload)
        known, exact = ~found.isnan(), Claim.EXACT in estimator.claims
        if bool((known & ~there).any()) or not (exact or torch.equal(known, there.expand_as(found))):
            raise AssertionError(f"{law}: {name}: NaN must say that there is no part, and nothing else")
        if not exact:
            agree(law, found.nansum(-1), estimator.scores(run, queries(), windows), 1e-12, name)
            continue
        some = known[0, 0].nonzero().tolist()
        for k, window in enumerate(windows):
            for part in map(tuple, some[:: max(1, len(some) // _SOME)]):
                change = torch.zeros(there.shape, dtype=workload.dtype)
                change[part] = 1
                expected = effect_by_part(workload, queries(), window, change).detach()
                agree(law, found[:, k, *part], expected, TOLERANCE, f"{name}, {window}, part {part}")


def parts_equal_autodiff(estimator: Estimator) -> None:
    """First-order scores of parts are the derivative by their weights, through the whole unrolled run."""
    for name, run in _runs(estimator):
        windows = windows_of(estimator, run.steps)
        found = torch.from_numpy(estimate(run, queries(), estimator, windows, parts=True).influence.values)
        expected = torch.stack([gradient_by_part(run.workload, queries(), w) for w in windows], 1)
        agree("parts equal autodiff", found.nan_to_num(), expected, TOLERANCE, name)


PARTS_LAWS: dict[Callable[[Estimator], None], frozenset[Claim]] = {
    parts_add_up_to_their_example: frozenset({Claim.PARTS}),
    parts_equal_autodiff: frozenset({Claim.PARTS, Claim.FIRST_ORDER}),
}
