"""What models hold of training examples that they were not trained on: trained without one fold each."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from influencekit._effects.labels import Judged, Labels, judge, judge_all
from influencekit._effects.retrain import Strategy, Weighting, check_finite, retrained
from influencekit._training.batch import Batch
from influencekit._training.workload import Workload, evaluated_with
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InputError
from influencekit.progress import track

__all__ = ["FoldModels", "fold_models", "folds_of"]

_ROWS = 256  # examples that are evaluated together


class FoldModels(NamedTuple):
    """`train`: all training examples, each judged by models that were trained without it, means over
    repeats. `others`: batches of other examples, each by every one of these models [batch][model]."""

    train: Judged
    others: list[list[Judged]]


def folds_of(workload: Workload, folds: int, repeats: int, seed: int) -> list[Tensor]:
    """Positions of the training examples in `folds` random parts of nearly one size, drawn anew `repeats`
    times. The parts are drawn by the examples' names, and do not depend on the order in which they stand.

    Errors: fewer than 2 folds, more folds than examples.
    """
    n, names = workload.n_train, [str(each) for each in workload.train_ids or range(workload.n_train)]
    if not 2 <= folds <= n:
        raise InputError(f"folds must be from 2 to the number of examples, {n}; got {folds}")
    generator = torch.Generator().manual_seed(seed % 2**63)
    named = torch.tensor(sorted(range(n), key=names.__getitem__))
    orders = [named[torch.randperm(n, generator=generator)] for _ in range(repeats)]
    return [part.sort().values for order in orders for part in order.tensor_split(folds)]


def fold_models(
    trajectory: Trajectory, labels: Labels, folds: int, repeats: int = 1, seed: int = 0,
    strategy: Strategy = "auto", others: Sequence[Batch] = (),
) -> FoldModels:  # fmt: skip
    """Train the recorded run again without each fold, and ask every model for the examples that it lacks.

    On the recorded batches, whose divisor stays. Cost: folds * repeats training runs, together where batching
    is faster. Errors: those of `folds_of`; a retraining that leaves the finite numbers.
    """
    workload = trajectory.workload_at(trajectory.steps)
    parts = folds_of(workload, folds, repeats, seed)
    losses = workload.theta0.new_zeros(workload.n_train)
    evidence: Tensor | None = None
    also: list[list[Judged]] = [[] for _ in others]
    for k, theta, buffers in track(_models(trajectory, parts, strategy), "out of fold", len(parts)):
        check_finite(theta[:, None], [Weighting(parts[k])])
        with evaluated_with(buffers):
            for rows in parts[k].to(workload.device).split(_ROWS):
                one = judge(workload, theta, workload.examples(rows), labels)
                losses[rows] += one.losses.to(losses) / repeats
                if one.evidence is not None:
                    if evidence is None:
                        evidence = losses.new_zeros(len(losses), one.evidence.shape[1])
                    evidence[rows] += one.evidence.to(losses) / repeats
            for found, batch in zip(also, others, strict=True):
                found.append(judge_all(workload, theta, labels, batch))
    return FoldModels(Judged(losses, evidence), also)


def _models(
    trajectory: Trajectory, parts: list[Tensor], strategy: Strategy
) -> Iterator[tuple[int, Tensor, dict[str, Tensor]]]:
    """(number of the fold, parameters, buffers) of a model without each; the recorded one where no step holds
    any of the fold."""
    end, left = trajectory.steps, set(range(len(parts)))
    weightings = [Weighting(part) for part in parts]
    for models in retrained(trajectory, weightings, (0, end), [end], strategy):
        for row, k in enumerate(models.members):
            theta, buffers = models.one(row)
            left.discard(k)
            yield k, theta, dict(buffers)
    own = trajectory.evaluated(end)
    for k in sorted(left):
        yield k, own.theta, dict(own.buffers)
