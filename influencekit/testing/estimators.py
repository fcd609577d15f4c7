"""The laws of estimators. Each is a function of an estimator that raises AssertionError naming itself.

A law is tested for whoever claims it. The problem is the tiny float64 one of the oracle, once with every
optimizer of `setting.OPTIMIZERS` that the estimator accepts; plain SGD must be among them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from influencekit._training.batch import select
from influencekit._training.optimizers import SGD
from influencekit._training.state import State
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import averaged
from influencekit._verbs.contributions import contributions, sum_over_windows
from influencekit._verbs.estimate import estimate
from influencekit._verbs.record import record
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.registry import label, make
from influencekit.testing import oracle
from influencekit.testing.setting import (
    OPTIMIZERS,
    TOLERANCE,
    accepted,
    accepts,
    agree,
    queries,
    recorded,
    windows_of,
)
from influencekit.testing.untouched import untouched
from influencekit.windows import Window

__all__ = ["ESTIMATOR_LAWS"]


def taylor_test(estimator: Estimator) -> None:
    """FIRST_ORDER: lower the weights by h d; effect - h <scores, d> falls as h squared (slope at least 1.9).

    Remainders are taken together over test examples, windows and three directions d, so that a remainder that
    happens to cross zero does not spoil the slope.
    """
    law = "Taylor test"
    generator = torch.Generator().manual_seed(0)
    for name, trajectory in accepted(estimator):
        workload, query = trajectory.workload, queries()
        windows = windows_of(estimator, trajectory.steps)
        scores = estimator.scores(trajectory, query, windows)
        ones = torch.ones(trajectory.steps, workload.n_train, dtype=workload.dtype)
        base = oracle.weighted_run(workload, ones)
        directions = torch.randn(3, workload.n_train, generator=generator, dtype=workload.dtype)
        sizes = []
        for h in (1e-2, 1e-3, 1e-4):
            remainders = [
                oracle.perturbed_effect(workload, query, window, base, h * d) - h * (scores[:, k] @ d)
                for k, window in enumerate(windows)
                for d in directions
            ]
            sizes.append(torch.stack(remainders).norm().item())
        for large, small in zip(sizes, sizes[1:], strict=False):
            slope = torch.tensor(large / max(small, 1e-300)).log10().item()
            if small > 1e-13 and not slope >= 1.9:  # below, the remainder is rounding
                raise AssertionError(
                    f"{law}: {name}: the remainder falls with slope {slope:.2f}, expected at least 1.9: the "
                    "scores are not the derivative with respect to the examples' weights"
                )


def equals_autodiff_through_the_unrolled_run(estimator: Estimator) -> None:
    """FIRST_ORDER: to 1e-10 the gradient through the whole training loop, for every optimizer and removal."""
    for name, trajectory in accepted(estimator):
        windows = windows_of(estimator, trajectory.steps)
        found = estimator.scores(trajectory, queries(), windows)
        for k, window in enumerate(windows):
            expected = oracle.unrolled_gradient(trajectory.workload, queries(), [window])
            where = f"{name}, window {window} under {window.removal} removal"
            agree("equals autodiff through the unrolled run", found[:, k : k + 1], expected, TOLERANCE, where)


def equals_retraining(estimator: Estimator) -> None:
    """EXACT: to 1e-10 what plain training loops without each example give, under every claimed removal."""
    for name, trajectory in accepted(estimator):
        windows = windows_of(estimator, trajectory.steps)
        found = estimator.scores(trajectory, queries(), windows)
        expected = oracle.retrained(trajectory.workload, queries(), windows)
        agree("equals retraining", found, expected, TOLERANCE, name)


def equals_retraining_where_first_order_is_exact(estimator: Estimator) -> None:
    """FIRST_ORDER: quadratic loss, query linear in theta, removal that leaves the Hessian unchanged."""
    optimizers = [SGD(lr=0.2), SGD(lr=0.1, momentum=0.8, dampening=0.2, weight_decay=0.1)]
    for optimizer in optimizers:
        workload, positions = oracle.quadratic_workload(optimizer)
        if optimizer.momentum and not accepts(estimator, "sgd with momentum"):
            continue
        generator = torch.Generator().manual_seed(2)
        vectors = torch.randn(2, workload.n_params, generator=generator, dtype=workload.dtype)
        query = make("query", "vector", vector=vectors)
        trajectory = record(workload)
        windows = windows_of(estimator, trajectory.steps)
        found = estimator.scores(trajectory, query, windows)[..., positions]
        expected = oracle.retrained(workload, query, windows, positions)
        law = "equals retraining where first order is exact"
        agree(law, found, expected, TOLERANCE, repr(optimizer))


@dataclass(frozen=True, eq=False)
class Mixture(Query):
    """The weighted sum of a query's values: mix [mixture, query]."""

    query: Query
    mix: Tensor

    def labels(self, workload: Workload) -> Sequence[int]:
        return range(len(self.mix))

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        return self.mix @ self.query.evaluate(workload, theta)


def linear_in_the_query(estimator: Estimator) -> None:
    """LINEAR: the scores of a mixture of queries are the mixture of the scores, to rounding."""
    for name, trajectory in accepted(estimator):
        windows = windows_of(estimator, trajectory.steps)
        alone = estimator.scores(trajectory, queries(), windows)
        generator = torch.Generator().manual_seed(3)
        mix = torch.randn(len(alone), len(alone), generator=generator, dtype=alone.dtype)
        found = estimator.scores(trajectory, Mixture(queries(), mix), windows)
        agree("linear in the query", found, torch.einsum("mq,qwt->mwt", mix, alone), TOLERANCE, name)


def additive_over_adjoining_windows(estimator: Estimator) -> None:
    """WINDOWED: under global removal the scores of [0, 2), [2, 5), [5, T) add up to those of [0, T)."""
    for name, trajectory in accepted(estimator):
        cuts = [0, 2, 5, trajectory.steps]
        parts = [Window(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
        scores = estimator.scores(trajectory, queries(), [*parts, Window(0, trajectory.steps), Window(0, 5)])
        law = "additive over adjoining windows"
        agree(law, scores[:, :3].sum(1), scores[:, 3], TOLERANCE, name)
        agree(law, scores[:, :2].sum(1), scores[:, 4], TOLERANCE, name)


def contributions_add_up(estimator: Estimator) -> None:
    """ADDITIVE: what occurrences contribute adds up to the scores of every claimed window, to rounding."""
    for name, trajectory in accepted(estimator):
        windows = windows_of(estimator, trajectory.steps)
        found = contributions(trajectory, queries(), estimator, range(1, trajectory.steps + 1))
        added = torch.from_numpy(sum_over_windows(found, windows).influence.values)
        expected = estimator.scores(trajectory, queries(), windows)
        agree("contributions add up", added, expected, TOLERANCE, name)


def removals_agree_where_they_mean_the_same(estimator: Estimator) -> None:
    """WINDOWED: `global` is `window` over [0, b), and `window` is `occurrence` over [a, T)."""
    for name, trajectory in accepted(estimator):
        T = trajectory.steps
        start = [Window(0, 4, "global"), Window(0, 4, "window")]
        end = [Window(2, T, "window"), Window(2, T, "occurrence"), Window(2, T, "global")]
        scores = estimator.scores(trajectory, queries(), [*start, *end])
        law = "removals agree where they mean the same"
        agree(law, scores[:, [0, 2]], scores[:, [1, 3]], TOLERANCE, name)


def asked_of_one_state_as_of_a_run_that_ended_there(estimator: Estimator) -> None:
    """AVERAGED: all weight on state 4 gives the scores of the run that was trained no further."""
    for name, trajectory in accepted(estimator):
        workload, whole = trajectory.workload, Window(0, trajectory.steps)
        found = estimator.scores(averaged(trajectory, {4: 1.0}), queries(), [whole])
        shorter = record(replace(workload, order=trajectory.plan.indices[:4]))
        expected = estimator.scores(shorter, queries(), [Window(0, 4)])
        agree("asked of one state as of a run that ended there", found, expected, TOLERANCE, name)


def linear_in_the_weights_of_states(estimator: Estimator) -> None:
    """AVERAGED and WINDOWED: for a query linear in the parameters, the scores on an average of states are the
    same average of the scores on each."""
    generator = torch.Generator().manual_seed(5)
    for name, trajectory in accepted(estimator):
        workload, T = trajectory.workload, trajectory.steps
        vector = torch.randn(2, workload.n_params, generator=generator, dtype=workload.dtype)
        query = make("query", "vector", vector=vector)
        windows = [Window(0, T), Window(2, 5, "occurrence")]
        weights = {2: 0.5, 4: -0.25, T: 0.75}
        found = estimator.scores(averaged(trajectory, weights), query, windows)
        each = [estimator.scores(averaged(trajectory, {t: 1.0}), query, windows) for t in weights]
        mixed = sum(w * one for w, one in zip(weights.values(), each, strict=True))
        agree("linear in the weights of states", found, torch.as_tensor(mixed), TOLERANCE, name)


def zero_for_an_unvisited_example(estimator: Estimator) -> None:
    """LOCAL: exactly 0 for an example that no batch of the window's removal holds."""
    for name, trajectory in accepted(estimator):
        windows = windows_of(estimator, trajectory.steps)
        scores = estimator.scores(trajectory, queries(), windows)
        for k, window in enumerate(windows):
            start, stop = window.absent()
            rows = trajectory.plan.indices[start:stop]
            for j in range(trajectory.workload.n_train):
                here = scores[:, k, j]
                if not (rows == j).any() and not (here.isnan() | (here == 0)).all():
                    raise AssertionError(
                        f"zero for an unvisited example: {name}, {window} under {window.removal} removal: "
                        f"no batch holds the example at position {j}, and its score is {here.abs().max():.2e}"
                    )


def unchanged_by_relabelling(estimator: Estimator) -> None:
    """Permuting the training set, and the slots of every batch, permutes the scores and nothing else."""
    for name, trajectory in accepted(estimator):
        if name not in ("sgd", "adamw"):
            continue  # the optimizer knows no examples
        workload = trajectory.workload
        windows = windows_of(estimator, trajectory.steps)
        before = estimator.scores(trajectory, queries(), windows)
        n, generator = workload.n_train, torch.Generator().manual_seed(4)
        new = torch.randperm(n, generator=generator)  # position i holds what was at new[i]
        where = torch.cat([new.argsort(), torch.tensor([-1])])
        rows = where[trajectory.plan.indices].flip(1)
        ids = workload.train_ids or range(n)
        moved = replace(
            workload,
            train=select(workload.train, new),
            train_ids=[ids[int(i)] for i in new],
            order=torch.stack([torch.cat([row[row >= 0], row[row < 0]]) for row in rows]),
        )
        after = estimator.scores(record(moved), queries(), windows)
        agree("unchanged by relabelling examples", after, before[..., new], TOLERANCE, name)


class _InSmallBlocks(Trajectory):
    def blocks(self, start: int, stop: int, what: str = "sweep") -> Iterator[list[State]]:
        for block in super().blocks(start, stop, what):
            for high in range(len(block), 0, -2):
                yield block[max(0, high - 2) : high]


def unchanged_by_recorder_and_block_size(estimator: Estimator) -> None:
    """However the states are stored, replayed and cut into blocks: the same scores, to rounding."""
    for name, trajectory in accepted(estimator):
        windows = windows_of(estimator, trajectory.steps)
        expected = estimator.scores(trajectory, queries(), windows)
        others = {
            "every-k:k=4": recorded(name, "every-k:k=4"),
            "every-k:k=100": recorded(name, "every-k:k=100"),
        }
        others["blocks of 2 states"] = _InSmallBlocks(trajectory.group, trajectory.workload, trajectory.step)
        for what, other in others.items():
            found = estimator.scores(other, queries(), windows)
            agree("unchanged by recorder and block size", found, expected, TOLERANCE, f"{name}, {what}")


def pure(estimator: Estimator) -> None:
    """Twice the same bits; model, data, store, random state, dtype, gradients, train/eval mode untouched."""
    fresh = record(oracle.tiny_workload(OPTIMIZERS["sgd"]))  # one that no earlier call can have changed
    with untouched("pure", fresh):
        estimator.scores(fresh, queries(), windows_of(estimator, fresh.steps))
    for name, trajectory in accepted(estimator):
        windows = windows_of(estimator, trajectory.steps)
        with untouched("pure", trajectory):
            first = estimator.scores(trajectory, queries(), windows)
            again = estimator.scores(trajectory, queries(), windows)
        if not torch.equal(first.nan_to_num(), again.nan_to_num()):
            raise AssertionError(f"pure: {name}: the second call gave other bits")


def labelled(estimator: Estimator) -> None:
    """Shape [query, window, train] and dtype (`accepts`), finite, and what `estimate` makes of it."""
    if not estimator.claims <= frozenset(Claim):
        raise AssertionError(f"labelled: claims must be a set of Claim, got {estimator.claims}")
    for name, trajectory in accepted(estimator):
        windows, workload = windows_of(estimator, trajectory.steps), trajectory.workload
        scores = estimator.scores(trajectory, queries(), windows)
        if scores.isinf().any() or scores.isnan().all(-1).any():
            raise AssertionError(
                f"labelled: {name}: scores must be finite, or NaN for examples left out on request"
            )
        result = estimate(trajectory, queries(), estimator, windows)
        ids = result.indexes["train"].tolist(), result.indexes["query"].tolist()
        if ids != (list(workload.train_ids or ()), list(workload.test_ids or ())):
            raise AssertionError(f"labelled: {name}: the result is labelled {ids}")
        if result.attrs["estimator"] != label(estimator):
            raise AssertionError(f"labelled: {name}: the result names {result.attrs['estimator']}")


# law: the claims that must all be made for it to be tested
ESTIMATOR_LAWS: dict[Callable[[Estimator], None], frozenset[Claim]] = {
    taylor_test: frozenset({Claim.FIRST_ORDER}),
    equals_autodiff_through_the_unrolled_run: frozenset({Claim.FIRST_ORDER}),
    equals_retraining_where_first_order_is_exact: frozenset({Claim.FIRST_ORDER}),
    equals_retraining: frozenset({Claim.EXACT}),
    linear_in_the_query: frozenset({Claim.LINEAR}),
    additive_over_adjoining_windows: frozenset({Claim.WINDOWED}),
    contributions_add_up: frozenset({Claim.ADDITIVE}),
    removals_agree_where_they_mean_the_same: frozenset({Claim.WINDOWED}),
    asked_of_one_state_as_of_a_run_that_ended_there: frozenset({Claim.AVERAGED}),
    linear_in_the_weights_of_states: frozenset({Claim.AVERAGED, Claim.WINDOWED}),
    zero_for_an_unvisited_example: frozenset({Claim.LOCAL}),
    unchanged_by_relabelling: frozenset(),
    unchanged_by_recorder_and_block_size: frozenset(),
    pure: frozenset(),
    labelled: frozenset(),
}
