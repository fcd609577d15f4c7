"""Suspects: which labels are wrong, by the score that finds planted wrong labels best."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from influencekit._arguments import check_seed, checked, real_number, whole_number
from influencekit._bars import with_progress
from influencekit._effects.labels import Labels, labels_of
from influencekit._effects.retrain import Strategy
from influencekit._training.batch import select
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.changed_data import rerun_with
from influencekit._verbs.curate.sets import trained
from influencekit._verbs.curate.trusted import Trusted, refuse_unfit, split, tested_on, trusted_of
from influencekit._verbs.estimate import estimate
from influencekit._verbs.results import by_label, check_windows, require_run
from influencekit._verbs.suspects.calibration import (
    Calibration,
    calibrate,
    combined,
    normal_scores,
)
from influencekit._verbs.suspects.cost import say_cost
from influencekit._verbs.suspects.counting import none_wrong
from influencekit._verbs.suspects.expectation import Planted, expected, suspicion_of
from influencekit._verbs.suspects.outside import fractions_of, misled, outside
from influencekit._verbs.suspects.planting import Plant, confused
from influencekit._verbs.suspects.result import Found, result_of
from influencekit.errors import InputError
from influencekit.interfaces import Claim, Estimator
from influencekit.progress import track
from influencekit.queries import TestLoss
from influencekit.registry import label, resolve
from influencekit.windows import Window

__all__ = ["suspects"]

_DEFAULT = ("final-loss", "aum", "out-of-fold", "dit")
_BY_THEMSELVES = ("final-loss", "aum", "out-of-fold")  # that ask no trusted data


@with_progress
@checked
def suspects(
    trajectory: Trajectory,
    trusted: Any = None,
    scores: Estimator | str | Sequence[Estimator | str] | None = None,
    fraction: float = 0.05,
    repeats: int = 4,
    folds: int = 4,
    verify: int = 10,
    seed: int = 0,
    level: float = 0.95,
    strategy: Strategy = "auto",
) -> xr.Dataset:
    """Which labels are wrong, by the score that finds planted wrong labels best in your own data.

    No score finds wrong labels best everywhere, so they compete. The labels of a random `fraction` of the
    training examples (at least 20, or a tenth) are flipped, the recorded run is trained again with them, and
    every score says which labels it suspects; `repeats` times. The score with the largest AUC for the flips
    leads. `scores` are estimators, low = suspicious; unless you say: final-loss, aum, out-of-fold, and dit on
    the mean loss of trusted examples; where there are several, also `combined`, a logistic regression on
    their ranks whose weights come from other plantings than those it is judged on. Where the
    loop loads earlier weights again, aum does not compete, since it looks at all epochs.

    `trusted`: examples with right labels that the run was not trained on, as for `curate`; None = the run's
    own test set, or none at all. Half of them are asked by influence, and the other half judges the effects.
    They also tell how many labels are wrong: models that were not trained on an example (`folds`) hold of its
    label what they hold of a right or of a wrong label of a trusted example. This, and how suspicious wrong
    labels are, is asked for each given label by itself, where at least ten trusted examples have it. Without
    them there is an upper bound only: the result has the ranking, `issues_high` and `expected_high`, marks
    nothing, and its `suspicion`, `issues` and `expected_precision` are NaN. Where most labels, or most of a
    class, are wrong, or numbered in another way than trusted ones, the model has learnt them, and right ones
    look suspicious: the verdict says so, nothing is marked, and `suspicion` and what is expected are NaN.

    What is planted: classes become another class, half of them any, half of them where the model errs;
    targets of a regression, and several labels at once, those of another example; documents, which are their
    own targets, get their tokens in random order. `issues` counts labels that are wrong in this way: too many
    where wrong ones are plainer, as where all of several labels are turned. A planted flip may hit a label
    that is wrong already and make it right: that part of the flips is taken out of the expectation.

    The result has, by `train`: `suspicion`, the probability of a wrong label as far as the planted ones tell
    (NaN: left out, since no step holds the example, or the loss ignores its target); `is_label_issue`, at
    least .5 of it; `action`, relabel, drop or keep; `rank`, 1 = most suspicious; `given`
    and `predicted` label, the latter by models that were not trained on the example; `learnt`, the epoch from
    which it is classified rightly to the end (NaN: never); `score` [by, train], what each score says;
    `remove_effect`, `relabel_effect` of the first `verify` ranks: exact effects on the mean loss of the
    trusted examples that judge, retrained (NaN: not asked). By `by`, the scores, on planted labels: `auc`,
    `auc_low`, `auc_high` (which hold for all scores at once), `precision` (of as many as were planted) and
    `average_precision`. By `k`: `expected_precision` of the k most suspicious, `expected_low`,
    `expected_high`. By `set`, "verified" and "marked": `set_size`, and `remove_set`, `relabel_set` with
    `_low` and `_high`, the effects together. `issues`, `issues_low`, `issues_high`: the expected number of
    wrong labels; where trusted examples are too few to rule out that none is, a caution says so, and the low
    ends are 0. Attrs: `verdict`, a sentence; `lead`; `planted`, what was planted.

    Sign: effects are after minus before, so negative = better. Cost: `repeats` trainings, as many times all
    scores, folds trainings, and two for each verified example; above a minute a line on stderr says so before
    it begins. Errors: fewer than two repeats, of which the combination needs one to be judged; targets that
    cannot be wrong; trusted data as in `curate`.

    Example:

        >>> import influencekit as ik
        >>> work = ik.make("workload", "mnist-1v7-lr:n_train=60:epochs=3")
        >>> from influencekit.evaluation import flipped
        >>> wrong, mask = flipped(work, 0.1)
        >>> found = ik.suspects(ik.record(wrong), scores=["final-loss", "aum"], repeats=2, verify=2)
        >>> found.suspicion.sizes["train"], found.attrs["lead"] in ("final-loss", "aum", "combined")
        (60, True)
    """
    require_run(trajectory)
    check_seed("seed", seed)
    real_number("fraction", fraction, above=0.0, most=0.5)
    for name, value, least in (("repeats", repeats, 2), ("folds", folds, 2), ("verify", verify, 0)):
        whole_number(name, value, least)
    real_number("level", level, above=0.0, below=1.0)
    labels = labels_of(trajectory.workload)
    has_trusted = trusted is not None or trajectory.workload.test is not None
    methods = _methods(trajectory, labels, scores, has_trusted)
    for method in methods.values():
        check_windows(trajectory, method, [Window(0, trajectory.steps)])
    given = trusted_of(trajectory, trusted) if has_trusted else None
    whole = trajectory if given is None else _tested_on(trajectory, given, None)
    if given is not None:
        refuse_unfit(whole.workload, trusted)
        _check_labels(whole, labels)
    choose, judge = (None, None) if given is None else split(len(given.ids), seed)
    asked = trajectory if given is None else _tested_on(trajectory, given, choose)
    used = _with_labels(trajectory, labels)
    verified = 0 if given is None else min(verify, len(used))
    trainings = say_cost(trajectory, methods, repeats, folds, verified, strategy)
    own = _scores(asked, methods, used)
    out = outside(whole, labels, used, folds, seed, strategy, given)
    plant = Plant(labels, confused(labels, out.models.train.evidence))
    z, masks, classes = [], [], []
    for r in track(range(repeats), "plantings", repeats):
        generator = np.random.default_rng((seed % 2**64, 3, r))
        changed, mask = plant.planted(trajectory.workload, used, fraction, generator)
        z.append(normal_scores(_scores(rerun_with(asked, changed), methods, used), used))
        masks.append(mask)
        classes.append(plant.classes(changed))
    found = calibrate(list(methods), z, masks, used)
    asking = [n for n in methods if n.partition(":")[0] not in _BY_THEMSELVES]
    gain = _gain(list(methods), asking, z, masks, used, found)
    ranked = _ranked(found, list(methods), normal_scores(own, used), used)
    depth = found.findings[found.lead].depth
    plantings = [
        Planted(one, out.groups[before], out.groups[after], plant.undone(before, after))
        for one, (before, after) in zip(depth, classes, strict=True)
    ]
    groups = out.groups[labels.own.cpu().numpy()[ranked]] if labels.classify else np.zeros_like(ranked)
    fractions = fractions_of(out, given, len(used), depth, seed)
    hopes = expected(plantings, groups, fractions, level, (seed % 2**64, 5), bound=given is None)
    chance = none_wrong(out.mixtures) if given is not None else 0.0
    unsure = chance > (1 - level) / 2
    if unsure:
        hopes = hopes._replace(issues=(hopes.issues[0], 0.0, hopes.issues[2]), low=np.zeros(len(ranked)))
    astray = given is not None and misled(out, fractions)
    if astray:  # what is suspicious to them may be right
        nothing = np.full(len(ranked), np.nan)
        hopes = hopes._replace(precision=nothing, low=nothing, high=nothing)
    facts = Found(
        trajectory, labels, methods, own, found, ranked, used, out.models.train, hopes,
        suspicion_of(hopes.precision), given, chance if unsure else None, astray, gain, asking, plant.words,
        trainings,
    )  # fmt: skip
    judged = None if judge is None or given is None else _tested_on(trajectory, given, judge)
    return result_of(facts, judged, verify, level, seed, strategy, fraction, repeats)


def _methods(
    trajectory: Trajectory, labels: Labels, scores: Estimator | str | Sequence[Estimator | str] | None,
    trusted: bool,
) -> dict[str, Estimator]:  # fmt: skip
    """The scores that compete, by name: those that fit the data and the run, or those that were asked for."""
    ending = trajectory.ending
    if scores is not None:
        made = [*by_label("scores", scores).values()]
    else:
        names = [n for n in _DEFAULT if (n != "aum" or labels.classify) and (n != "dit" or trusted)]
        made = [resolve("estimator", name) for name in names]
        made = [one for one in made if ending is None or Claim.AVERAGED in one.claims]
    for one in made:
        if ending is not None and Claim.AVERAGED not in one.claims:
            raise InputError(
                f"suspects: {label(one)} cannot be asked of {ending.average}, "
                f"{ending.describe(trajectory.steps)}; leave {label(one)} out of scores"
            )
    methods = {label(one): one for one in made}
    asking = [n for n in methods if n.partition(":")[0] not in _BY_THEMSELVES]
    if asking and not trusted:
        raise InputError(
            f"suspects: {asking[0]} asks trusted examples, and there are none; pass trusted=(x, y) or a data "
            "set, open the run with a test set, or leave it out of scores"
        )
    return methods


def _check_labels(run: Trajectory, labels: Labels) -> None:
    """Errors: classes in training, and something else in the test set of the run, which is trusted."""
    assert run.workload.test is not None
    target = run.workload.calls.target(run.workload.test)
    if labels.classify and target.numel() != run.workload.n_test:
        raise InputError(
            f"suspects: training examples have one class each, and trusted ones targets of shape "
            f"{[*target.shape]}; give the class of each"
        )


def _tested_on(trajectory: Trajectory, given: Trusted, rows: np.ndarray | None) -> Trajectory:
    """The run with these of the trusted examples as its test set."""
    device = trajectory.workload.device
    batch = given.batch if rows is None else select(given.batch, torch.from_numpy(rows).to(device))
    return tested_on(trajectory, batch)


def _with_labels(trajectory: Trajectory, labels: Labels) -> np.ndarray:
    """Positions of the examples that some step holds, without those whose target the loss ignores."""
    used = trained(trajectory)
    return used if labels.ignored is None else used[labels.known.cpu().numpy()[used]]


def _scores(run: Trajectory, methods: dict[str, Estimator], used: np.ndarray) -> np.ndarray:
    """What every score says [score, train], low = suspicious. Errors: one that leaves out examples of those
    that are `used`."""
    found = []
    for name, method in track(methods.items(), "scores", len(methods)):
        values = estimate(run, TestLoss(), method).influence.values[0, 0].astype(np.float64)
        known = int(np.isfinite(values[used]).sum())
        if known < len(used):
            raise InputError(
                f"suspects: {name} scored {known} of {len(used)} examples; let it score all of them"
            )
        found.append(values)
    return np.stack(found)


def _gain(
    names: list[str], asking: list[str], z: list[np.ndarray], masks: list[np.ndarray], used: np.ndarray,
    found: Calibration,
) -> float | None:  # fmt: skip
    """What influence adds: the AUC of the best score less that of the best without influence. None where
    there is nothing to compare."""
    rest = [k for k, n in enumerate(names) if n not in asking]
    if not asking or not rest:
        return None
    without = calibrate([names[k] for k in rest], [one[rest] for one in z], masks, used)
    best = [one.findings[one.lead].auc for one in (found, without)]
    return best[0] - best[1]


def _ranked(found: Calibration, names: list[str], z: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Positions of the used examples, the most suspicious first, by the score that leads."""
    if found.lead == "combined":
        assert found.weights is not None
        one = combined(z, found.weights, used)
    else:
        one = z[names.index(found.lead)]
    order: np.ndarray = used[np.argsort(-one[used], kind="stable")]
    return order
