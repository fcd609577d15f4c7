"""The result of `suspects` as a dataset: what is suspected, why, and what acting on it does."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr

from influencekit import __version__
from influencekit._effects.labels import Judged, Labels, margins_by_epoch
from influencekit._effects.retrain import Strategy
from influencekit._trajectory.identity import identity
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.curate.sets import intervals
from influencekit._verbs.curate.trusted import Trusted
from influencekit._verbs.results import class_names, example_coords
from influencekit._verbs.suspects.calibration import (
    Calibration,
    combined,
    normal_scores,
    resampled_means,
)
from influencekit._verbs.suspects.exact import effects_of
from influencekit._verbs.suspects.expectation import Expected
from influencekit._verbs.suspects.words import influence_words, verdict
from influencekit.interfaces import Estimator

__all__ = ["Found", "result_of"]

_MARKED = 0.5  # the suspicion from which an example is marked
_RESAMPLES = 1000


class Found(NamedTuple):
    """Everything that was found before anything is verified. `ranked`: positions, most suspicious first;
    `suspicion` [k] of the k-th of them. `chance`: that of such data if no label is wrong, None
    where it is small."""

    run: Trajectory
    labels: Labels
    methods: Mapping[str, Estimator]
    scores: np.ndarray
    calibration: Calibration
    ranked: np.ndarray
    used: np.ndarray
    judged: Judged
    expected: Expected
    suspicion: np.ndarray
    trusted: Trusted | None
    chance: float | None
    misled: bool
    gain: float | None
    asking: list[str]
    planted: str
    trainings: int


def result_of(
    found: Found, judge: Trajectory | None, verify: int, level: float, seed: int, strategy: Strategy,
    fraction: float, repeats: int,
) -> xr.Dataset:  # fmt: skip
    """The dataset; `judge` is the run with the trusted examples that judge as its test set."""
    n, labels, run = found.run.workload.n_train, found.labels, found.run
    suspicion, rank = np.full(n, np.nan), np.full(n, np.nan)
    suspicion[found.ranked], rank[found.ranked] = found.suspicion, np.arange(1, len(found.ranked) + 1)
    ends = _auc_interval(found.calibration, level, seed)
    lead = list(found.calibration.findings).index(found.calibration.lead)
    auc = float(ends[0][lead]), float(ends[1][lead])
    marked = (suspicion >= _MARKED) & (auc[0] > 0.5)
    values, predicted = _predicted(labels, found.judged)
    given = None if labels.values is None else labels.values.cpu().numpy()
    name = partial(class_names, info=run.workload.info) if labels.classify else np.asarray
    differs = np.zeros(n, bool) if predicted is None or given is None else predicted != given
    action = np.where(marked, np.where(differs & labels.classify, "relabel", "drop"), "keep")
    variables: dict[str, Any] = {
        "suspicion": ("train", suspicion),
        "is_label_issue": ("train", marked),
        "action": ("train", action),
        "rank": ("train", rank),
        "learnt": ("train", _learnt(run, labels)),
        "score": (("by", "train"), _scores(found)),
        **_calibrated(found.calibration, ends),
        "expected_precision": ("k", found.expected.precision),
        "expected_low": ("k", found.expected.low),
        "expected_high": ("k", found.expected.high),
        **dict(zip(("issues", "issues_low", "issues_high"), found.expected.issues, strict=True)),
    }
    if given is not None and predicted is not None:
        variables |= {
            "given": ("train", name(given.tolist())), "predicted": ("train", name(predicted.tolist()))
        }  # fmt: skip
    if judge is not None and verify:
        top = found.ranked[:verify]
        variables |= _verified(judge, found, top, np.flatnonzero(marked), values, level, seed, strategy)
    words = influence_words(found.gain, found.asking)
    said = verdict(
        found.calibration, found.expected, int(marked.sum()), len(found.used), found.trusted is not None,
        found.misled, words, auc,
    )  # fmt: skip
    return xr.Dataset(
        variables,
        coords={
            **example_coords(run.workload),
            "by": [*found.methods, *(["combined"] if found.calibration.weights is not None else [])],
            "k": np.arange(1, len(found.ranked) + 1),
        },
        attrs={
            "verdict": said, "lead": found.calibration.lead, "planted": found.planted, "fraction": fraction,
            "repeats": repeats, "level": level, "split_seed": seed, "trainings": found.trainings,
            "trusted": 0 if found.trusted is None else len(found.trusted.ids),
            "workload": run.workload.name, "seed": run.workload.seed,
            "run": identity(run, tested=False), "influencekit_version": __version__,
            **_caution(found),
        },
    )  # fmt: skip


def _auc_interval(calibration: Calibration, level: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """For all scores at once (Bonferroni), since the one that leads is the largest of several."""
    tail, ends = (1 - level) / 2 / len(calibration.findings), []
    for one in calibration.findings.values():
        means = resampled_means([1 - each for each in one.depth], _RESAMPLES, (seed % 2**64, 8))
        ends.append(np.quantile(means, [tail, 1 - tail]))
    low, high = np.array(ends).T
    return low, high


def _calibrated(calibration: Calibration, ends: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    each = list(calibration.findings.values())
    return {
        "auc": ("by", [one.auc for one in each]),
        "auc_low": ("by", ends[0]),
        "auc_high": ("by", ends[1]),
        "precision": ("by", [float(one.precision.mean()) for one in each]),
        "average_precision": ("by", [float(one.ap.mean()) for one in each]),
    }


def _scores(found: Found) -> np.ndarray:
    """What each score says, the combination as minus the rank."""
    if found.calibration.weights is None:
        return found.scores
    z = normal_scores(found.scores, found.used)
    both = combined(z, found.calibration.weights, found.used)
    return np.concatenate([found.scores, -both[None]])


def _predicted(labels: Labels, judged: Judged) -> tuple[torch.Tensor | None, np.ndarray | None]:
    """The labels that models hold for right which were not trained on the example: as targets, and as
    numbers."""
    if judged.evidence is None:
        return None, None
    if labels.numbers is not None:
        values = labels.numbers[judged.evidence.argmax(1).to(labels.numbers.device)]
    else:
        values = judged.evidence[:, 0]
    return values, values.cpu().numpy()


def _learnt(run: Trajectory, labels: Labels) -> np.ndarray:
    """The epoch (1, 2, ...) from which an example is classified rightly to the end; NaN: never, unknown."""
    if not labels.classify:
        return np.full(run.workload.n_train, np.nan)
    right = (margins_by_epoch(run, labels) > 0).cpu().numpy()
    wrong_last = len(right) - np.argmax(~right[::-1], 0)  # the last epoch with a miss, 1, 2, ...
    first = np.where(right.all(0), 1, wrong_last + 1).astype(np.float64)
    first[~right[-1]] = np.nan  # also what has no label
    return first


def _verified(
    judge: Trajectory, found: Found, top: np.ndarray, marked: np.ndarray, values: torch.Tensor | None,
    level: float, seed: int, strategy: Strategy,
) -> dict[str, Any]:  # fmt: skip
    """Exact effects of the top examples one by one, together, and of all that are marked."""
    sets = [np.array([k]) for k in top] + [np.sort(top)] + ([marked] if len(marked) else [])
    exact = effects_of(judge, found.labels, sets, values, strategy)
    n, count = found.run.workload.n_train, len(top)
    names = ["verified", *(["marked"] if len(marked) else [])]
    result: dict[str, Any] = {"set_size": ("set", [len(each) for each in sets[count:]]), "set": names}
    for name, each in (("remove", exact.removed), ("relabel", exact.relabelled)):
        if each is None:
            continue
        single = np.full(n, np.nan)
        single[top] = each[:, :count].mean(0)
        low, high = intervals(each[:, count:], level, _RESAMPLES, seed)
        result |= {
            f"{name}_effect": ("train", single),
            f"{name}_set": ("set", each[:, count:].mean(0)),
            f"{name}_set_low": ("set", low),
            f"{name}_set_high": ("set", high),
        }
    return result


def _caution(found: Found) -> dict[str, str]:
    said = [found.run.caution] if found.run.caution else []
    ending = found.run.ending
    if ending is not None and found.labels.classify:
        said.append(f"aum, which looks at all epochs, cannot be asked of {ending.average} and was left out")
    gone = 0
    if found.labels.ignored is not None:
        gone = int(found.labels.ignored.sum())
        said.append(f"the loss ignores the targets of {gone} training examples, which were left out")
    if unseen := found.run.workload.n_train - gone - len(found.used):
        said.append(f"no step of the run holds {unseen} of the training examples, which were left out")
    if found.trusted is None:
        said.append(
            "without trusted data nobody knows how many labels are wrong, so none is marked; the number of "
            "wrong ones and the precision are upper bounds (issues_high, expected_high)"
        )
    else:
        said += found.trusted.cautions
        if found.chance is not None:
            said.append(
                f"{len(found.trusted.ids)} trusted examples are too few to rule out that no label is wrong "
                f"(p = {found.chance:.2g})"
            )
    return {"caution": "; ".join(said)} if said else {}
