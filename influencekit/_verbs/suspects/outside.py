"""What models that were not trained on an example hold of its label, and how many are wrong by that."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from influencekit._effects.labels import Judged, Labels, margins
from influencekit._effects.out_of_fold import FoldModels, fold_models
from influencekit._effects.retrain import Strategy
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.curate.trusted import Trusted
from influencekit._verbs.suspects.counting import Mixture, fractions_wrong, most_wrong
from influencekit._verbs.suspects.planting import Plant, confused

__all__ = ["Outside", "fractions_of", "misled", "outside"]

_RESAMPLES = 400
_FEW = 10  # trusted examples of a label: with fewer of one, all labels are taken together


class Outside(NamedTuple):
    """Models without a fold, and the training examples beside trusted ones, as these models see them; without
    trusted examples none. `groups` [class]: the mixture of each label."""

    models: FoldModels
    mixtures: list[Mixture]
    groups: np.ndarray


def outside(
    run: Trajectory, labels: Labels, used: np.ndarray, folds: int, seed: int, strategy: Strategy,
    given: Trusted | None,
) -> Outside:  # fmt: skip
    """Train the models without each fold, and ask them for the trusted examples with right and with wrong
    targets: margins of classes, else minus the losses."""
    generator = np.random.default_rng((seed % 2**64, 4))
    others = [] if given is None else [given.batch]
    if given is not None and not labels.classify:
        others.append(Plant(labels, None).of_batch(given.batch, generator))
    models = fold_models(run, labels, folds, 1, seed, strategy, others)
    groups = np.zeros(1 if labels.numbers is None else len(labels.numbers), dtype=np.int64)
    if given is None:
        return Outside(models, [], groups)
    if not labels.classify:
        right, wrong = (np.stack([_plain(-m.losses) for m in each]) for each in models.others)
        return Outside(models, [_all(_plain(-models.train.losses)[used], right, wrong)], groups)
    mixtures = _of_classes(run, labels, used, models, given, generator)
    if len(mixtures) > 1:
        groups[np.unique(labels.own.cpu().numpy()[used])] = np.arange(len(mixtures))
    return Outside(models, mixtures, groups)


def _of_classes(
    run: Trajectory, labels: Labels, used: np.ndarray, models: FoldModels, given: Trusted,
    generator: np.random.Generator,
) -> list[Mixture]:  # fmt: skip
    """A mixture for each given label: its wrong ones are trusted examples of other classes, by how often such
    a one gets this label. One for all labels, which get wrong ones at random, where some have few trusted."""
    evidence, towards = models.train.evidence, confused(labels, models.train.evidence)
    assert labels.numbers is not None and evidence is not None and towards is not None
    target = run.workload.calls.target(given.batch).reshape(-1).to(labels.numbers)
    known = torch.isin(target, labels.numbers.to(target))  # what the loss ignores has no label
    index = torch.searchsorted(labels.numbers, target[known])

    def of_trusted(label: Tensor) -> np.ndarray:
        return np.stack([_plain(margins(_evidence(m, known), label)) for m in models.others[0]])

    own, mine, y = labels.own.cpu().numpy()[used], _plain(labels.margins(evidence))[used], index.cpu().numpy()
    found = [
        Mixture(mine[own == k], *2 * (of_trusted(torch.full_like(index, k)),), 1.0 * (y == k), towards[y, k])
        for k in np.unique(own).tolist()
    ]
    if all(min((one.of_right > 0).sum(), (one.of_wrong > 0).sum()) >= _FEW for one in found):
        return found
    wrong = torch.tensor([generator.choice(len(towards), p=towards[k]) for k in y.tolist()])
    return [_all(mine, of_trusted(index), of_trusted(wrong.to(index)))]


def _all(own: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> Mixture:
    """The mixture in which every trusted example counts alike."""
    return Mixture(own, right, wrong, np.ones(right.shape[1]), np.ones(wrong.shape[1]))


def _evidence(one: Judged, rows: Tensor) -> Tensor:
    assert one.evidence is not None
    return one.evidence[rows.to(one.evidence.device)]


def misled(out: Outside, fractions: np.ndarray) -> bool:
    """Whether models hold wrong labels for right: most labels of some mixture are wrong by `fractions` [draw,
    mixture], and there a wrong label of a trusted example is likelier to them than a right one."""
    most = fractions.mean(0) > 0.5
    return any(most[k] and _told_apart(one) < 0.5 for k, one in enumerate(out.mixtures))


def _told_apart(one: Mixture) -> float:
    """The probability that models hold a right label of a trusted example for likelier than a wrong one."""
    found = []
    for right, wrong in zip(one.right, one.wrong, strict=True):
        order = np.argsort(wrong)
        below = np.concatenate([[0.0], np.cumsum(one.of_wrong[order])])
        ends = [np.searchsorted(wrong[order], right, side) for side in ("left", "right")]
        found.append(one.of_right @ (below[ends[0]] + below[ends[1]]) / 2)
    return float(np.mean(found) / one.of_right.sum() / one.of_wrong.sum())


def _plain(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


def fractions_of(
    out: Outside, given: Trusted | None, count: int, depth: Sequence[np.ndarray], seed: int
) -> np.ndarray:
    """Draws of the fraction of wrong labels [draw, mixture], from trusted data; of the largest possible one
    without, for `count` examples."""
    if given is not None:
        return fractions_wrong(out.mixtures, _RESAMPLES, (seed % 2**64, 7))
    generator = np.random.default_rng((seed % 2**64, 6))
    draws = [[d[generator.integers(0, len(d), len(d))] for d in depth] for _ in range(_RESAMPLES)]
    return np.array([[most_wrong(some, count)] for some in draws])
