"""Runs that evaluations are tried on, and slow answers about leaving out whole sets of examples."""

from functools import cache

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

import influencekit as ik
from influencekit._verbs.results import windows_of
from influencekit.evaluation.scoring import estimators_of, ready, scored
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.testing.oracle import perturbed_effect, tiny_workload, weighted_run

WINDOWS = {
    "whole": [ik.Window(0, 6)],
    "global": [ik.Window(2, 5), ik.Window(0, 6)],
    "window": [ik.Window(2, 5, "window"), ik.Window(0, 3, "window")],
    "occurrence": [ik.Window(3, 4, "occurrence")],
}


@cache
def tiny(seed: int = 0) -> ik.Trajectory:
    """The oracle's tiny tanh network: 8 examples, 6 steps, float64."""
    return ik.record(tiny_workload(seed=seed))


@cache
def additive() -> tuple[ik.Trajectory, Query]:
    """A run and a query in which every example has its own constant part: losses and query are linear in
    theta, so that the effect of a set is the sum of the effects of its members, and first order is exact."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(24, 3, generator=generator, dtype=torch.float64)
    c = torch.randn(24, generator=generator, dtype=torch.float64)
    workload = ik.Workload(
        model=nn.Linear(3, 1, bias=False, dtype=torch.float64), loss=lambda out, c: c * out[:, 0],
        train=(x, c), test=(x[:2], c[:2]), optimizer=ik.SGD(lr=0.1, momentum=0.5), epochs=2, batch_size=5,
        drop_last=True, name="additive",
    )  # fmt: skip
    vectors = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    return ik.record(workload), ik.make("query", "vector", vector=vectors)


def evaluated(
    run: ik.Trajectory, evaluation: ik.Evaluation, query="test-loss", estimators="dit", windows=None, **more
) -> xr.Dataset:
    """The result of one evaluation; `estimators` may be scores that are there."""
    given = {"scores": estimators} if isinstance(estimators, xr.Dataset) else {"estimators": estimators}
    (found,) = ik.evaluate(run, evaluation, query, windows=windows, **given, **more).values()
    return found


def called(
    run: ik.Trajectory,
    evaluation: ik.Evaluation,
    query="test-loss",
    estimators="dit",
    windows=None,
    folder=None,
) -> xr.Dataset:
    """`evaluation.run` as `evaluate` calls it, but with exactly this folder for the retrained models."""
    query = ik.make("query", query) if isinstance(query, str) else query
    if isinstance(estimators, xr.Dataset):
        scores = ready(run, query, estimators)
    else:
        scores = scored(run, query, estimators_of(estimators), windows or [ik.Window(0, run.steps)])
    return evaluation.run(run, query, scores, {}, windows_of(scores), folder)


def set_effect(workload: ik.Workload, query: Query, window: ik.Window, mask: np.ndarray) -> np.ndarray:
    """The effect [query] of leaving out the examples of a mask [train], by the plain loop of the oracle."""
    base = _base(workload)
    change = torch.from_numpy(mask.astype(float))
    return perturbed_effect(workload, query, window, base, change).detach().numpy()


@cache
def _base(workload: ik.Workload) -> list[Tensor]:
    ones = torch.ones(workload.plan.steps, workload.n_train, dtype=workload.dtype)
    return [theta.detach() for theta in weighted_run(workload, ones)]


class Wrong(Estimator):
    """DIT's scores, one part in a hundred too large: ranks perfectly, and is no derivative."""

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset({Claim.FIRST_ORDER, Claim.WINDOWED})

    def scores(self, trajectory, query, windows) -> Tensor:
        return 1.01 * ik.make("estimator", "dit").scores(trajectory, query, windows)
