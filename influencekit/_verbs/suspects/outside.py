"""What models that were not trained on an example hold of its label, and how many are wrong by that."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from influencekit._effects.labels import Labels, margins
from influencekit._effects.out_of_fold import FoldModels, fold_models
from influencekit._effects.retrain import Strategy
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.curate.trusted import Trusted
from influencekit._verbs.suspects.expectation import fraction_wrong, most_wrong
from influencekit._verbs.suspects.planting import Plant, confused

__all__ = ["Outside", "fractions_of", "outside"]

_RESAMPLES = 400


class Outside(NamedTuple):
    """Models without a fold, and what each of them holds of trusted examples with right and with wrong labels
    [model, trusted]; None where there are none."""

    models: FoldModels
    right: np.ndarray | None
    wrong: np.ndarray | None


def outside(
    run: Trajectory, labels: Labels, folds: int, seed: int, strategy: Strategy, given: Trusted | None
) -> Outside:
    """Models without each fold, and what they hold of trusted examples with right and with wrong targets:
    [model, trusted], margins of classes, else minus the losses."""
    generator = np.random.default_rng((seed % 2**64, 4))
    others = [] if given is None else [given.batch]
    if given is not None and not labels.classify:
        others.append(Plant(labels, None).of_batch(given.batch, generator))
    models = fold_models(run, labels, folds, 1, seed, strategy, others)
    if given is None:
        return Outside(models, None, None)
    if not labels.classify:
        right, wrong = (np.stack([-m.losses.double().cpu().numpy() for m in each]) for each in models.others)
        return Outside(models, right, wrong)
    assert labels.numbers is not None
    towards = confused(labels, models.train.evidence)
    target = run.workload.calls.target(given.batch).reshape(-1).to(labels.numbers)
    known = torch.isin(target, labels.numbers.to(target))  # what the loss ignores has no label
    index = torch.searchsorted(labels.numbers, target[known])
    assert towards is not None
    new = torch.from_numpy(np.array([generator.choice(len(towards), p=towards[y]) for y in index.tolist()]))
    pairs = [
        tuple(
            margins(m.evidence[known.to(m.evidence.device)], k).double().cpu().numpy() for k in (index, new)
        )
        for m in models.others[0]
        if m.evidence is not None
    ]
    return Outside(models, np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs]))


def fractions_of(
    out: Outside, plant: Plant, labels: Labels, given: Trusted | None, used: np.ndarray,
    depth: Sequence[np.ndarray], seed: int,
) -> np.ndarray:  # fmt: skip
    """The fraction of wrong labels and its resamples, from trusted data; the largest possible without."""
    if out.right is None or out.wrong is None:
        generator = np.random.default_rng((seed % 2**64, 6))
        found = [most_wrong(depth, len(used))]
        for _ in range(_RESAMPLES):
            some = [d[generator.integers(0, len(d), len(d))] for d in depth]
            found.append(most_wrong(some, len(used)))
        return np.array(found)
    judged = out.models.train
    if labels.classify and judged.evidence is not None:
        own = labels.margins(judged.evidence)
    else:
        own = -judged.losses
    mine = own.double().cpu().numpy()[used]
    return fraction_wrong(mine, out.right, out.wrong, _RESAMPLES, (seed % 2**64, 7))
