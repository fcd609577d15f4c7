"""Brittleness: what the removal of the k most helpful, or most harmful, examples really does."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from influencekit.direction import better_of, ends, written
from influencekit.effects.retrain import Strategy, Weighting, changes, check_finite
from influencekit.evaluation.leave_k_out import sizes
from influencekit.evaluation.retraining import check_at_least, draw_seed, random_sets
from influencekit.evaluation.scoring import Estimators, score
from influencekit.interfaces import Query
from influencekit.progress import track
from influencekit.queries import Prediction, TestLosses
from influencekit.training.batch import select
from influencekit.training.workload import Workload
from influencekit.trajectory.trajectory import Trajectory
from influencekit.verbs.results import Windows
from influencekit.windows import Removal, Window

__all__ = ["brittleness"]


def brittleness(
    trajectory: Trajectory,
    query: Query | str = "test-loss",
    estimators: Estimators = ("dit",),
    windows: Windows = None,
    removal: Removal = "global",
    *,
    k: tuple[int, ...] | None = None,
    draws: int = 8,
    queries: int = 16,
    seed: int = 0,
    strategy: Strategy = "auto",
) -> xr.Dataset:
    """The run without the k examples that an estimator calls most helpful or most harmful.

    For a loss the most helpful have the highest scores, for a margin the lowest (`Query.better`). Where
    neither way of the query is better, the coordinate `removed` is "raises" (without them it should be
    larger) and "lowers" in place of helpful and harmful.

    `effect` [estimator, removed, query, window, k]: q without them, retrained, minus q; `predicted`: the sum
    of their scores. Every query has its own k examples; of more than `queries` of them so many are drawn.
    The control: `control` [draw, query, window, k], k random examples, `draws` times. Of two estimators the
    one with the stronger effects (of a loss, larger ones of `helpful` and more negative ones of `harmful`)
    has found the examples that matter; no ground truth of single examples takes part.

    Where a query is about one test example (test-losses, prediction), also `flips` [estimator, removed,
    window, k] and `control_flips` [window, k]: the share of the queries whose example the model then
    classifies otherwise (one logit: above 0; several: the largest).

    `k` is 1, 4, 16, ... up to a quarter of the examples unless you say. Cost: 2 k queries training runs an
    estimator (equal sets once), k draws for the control, divided by what batching gains. Source: Ilyas et
    al. 2022, section 4.2; Park et al. 2023.
    """
    workload = trajectory.workload
    ks = sizes(workload.n_train, k)
    check_at_least("draws", draws, 1)
    check_at_least("queries", queries, 1)
    query, scores, chosen = score(trajectory, query, estimators, windows, removal)
    better = better_of(query)
    removed = ends(better)[::-1]  # helpful, harmful
    labels, generator = list(query.labels(workload)), np.random.default_rng(draw_seed(trajectory, seed))
    some = np.sort(generator.permutation(len(labels))[:queries])
    watched = _Watched(query, tuple(some.tolist()), _examples(query, some))
    random = random_sets(workload.n_train, list(ks) * draws, (*draw_seed(trajectory, seed), 1))
    influence = scores.influence.values[:, some].astype(np.float64)
    shape = (len(influence), len(removed), len(some), len(chosen), len(ks))
    found, predicted = np.zeros(shape), np.zeros(shape)
    control = np.zeros((draws, len(some), len(chosen), len(ks)))
    flips = np.zeros((len(some), *shape[:2], *shape[3:])), np.zeros((len(some), draws, *shape[3:]))
    for w, window in enumerate(track(chosen, "windows", len(chosen))):
        ordered = influence[:, :, w].argsort(-1, kind="stable")
        masks = np.zeros((*shape[:3], len(ks), workload.n_train), dtype=bool)
        for j, size in enumerate(ks):
            for r, (_, sign) in enumerate(removed):
                np.put_along_axis(masks[:, r, :, j], ordered[..., ::-sign][..., :size], True, axis=-1)
        predicted[..., w, :] = (masks * influence[:, None, :, w, None]).sum(-1)
        sets, place = np.unique(
            np.concatenate([masks.reshape(-1, workload.n_train), random]), axis=0, return_inverse=True
        )
        change, flip = _effects(trajectory, watched, sets, window, strategy)
        place = place.reshape(-1)
        own, rest = place[: -len(random)].reshape(masks.shape[:-1]), place[-len(random) :].reshape(draws, -1)
        for q in range(len(some)):
            found[:, :, q, w] = change[q, own[:, :, q]]
            control[:, q, w] = change[q, rest]
            if watched.examples:
                flips[0][q, ..., w, :], flips[1][q, ..., w, :] = flip[q, own[:, :, q]], flip[q, rest]
    dims = ("estimator", "removed", "query", "window", "k")
    said: dict[str, Any] = {
        "effect": (dims, found),
        "predicted": (dims, predicted),
        "control": (("draw", "query", "window", "k"), control),
    }
    if watched.examples:
        said["flips"] = ("estimator", "removed", "window", "k"), flips[0].mean(0)
        said["control_flips"] = ("window", "k"), flips[1].mean((0, 1))
    return xr.Dataset(
        said,
        coords={
            **scores.isel(query=some).drop_vars("train").coords,
            "removed": [word for word, _ in removed],
            "k": list(ks),
        },
        attrs={"draws": draws, "seed": seed, "queries": len(some), **written(better)},
    )


@dataclass(frozen=True, eq=False)
class _Watched(Query):
    """Some values of a query, and after them the class that the model gives to some test examples."""

    query: Query
    some: tuple[int, ...]
    examples: tuple[int, ...]

    def labels(self, workload: Workload) -> Sequence[Hashable]:
        return range(len(self.some) + len(self.examples))

    def evaluate(self, workload: Workload, theta: Tensor) -> Tensor:
        return self.at(workload, theta)(theta)

    def at(self, workload: Workload, theta: Tensor) -> Any:
        asked = self.query.at(workload, theta)

        def values(x: Tensor) -> Tensor:
            own = asked(x)
            own = own[torch.tensor(self.some, device=own.device)]
            if not self.examples:
                return own
            batch = select(workload.test, torch.tensor(self.examples, device=own.device))
            outputs = workload.outputs(x, batch).reshape(len(self.examples), -1)
            chosen = outputs.argmax(-1) if outputs.shape[1] > 1 else outputs[:, 0] > 0
            return torch.cat([own, chosen.to(own)])

        return values


def _examples(query: Query, some: np.ndarray) -> tuple[int, ...]:
    """The test example that each of these values of the query is about; none where there is no such thing."""
    if isinstance(query, TestLosses):
        return tuple(some.tolist())
    return (query.example,) if isinstance(query, Prediction) else ()


def _effects(
    trajectory: Trajectory, watched: _Watched, sets: np.ndarray, window: Window, strategy: Strategy
) -> tuple[np.ndarray, np.ndarray]:
    """The window's effect [query, set] of leaving out each set [set, train], and which classes it changes."""
    weightings = [Weighting(torch.from_numpy(mask.nonzero()[0])) for mask in sets]
    effect = torch.zeros(len(watched.some), len(sets), dtype=torch.float64)
    flips = torch.zeros(len(watched.examples), len(sets), dtype=torch.bool)
    last = max(window.evaluations(trajectory.steps))
    for models, values, signs in changes(trajectory, watched, weightings, [window], strategy):
        own, classes = values.double().cpu().split([len(effect), len(flips)])
        effect[:, models.members] += signs[0] * own
        if models.state == last:
            flips[:, models.members] = classes != 0
    check_finite(effect, weightings)
    return effect.numpy(), flips.numpy()
