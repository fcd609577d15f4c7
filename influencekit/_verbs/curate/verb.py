"""Curate: choose on one part of trusted data, retrain exactly, judge on the other part."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from influencekit._arguments import check_seed, checked, real_number, whole_number
from influencekit._bars import with_progress
from influencekit._direction import written
from influencekit._effects.retrain import Strategy
from influencekit._tape.checks.model import refuse_random_evaluation
from influencekit._training.batch import select
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.curate.cost import plan_of, say
from influencekit._verbs.curate.sets import at_random, intervals, most_harmful, scaled, sizes_of, trained
from influencekit._verbs.curate.trusted import split, tested_on, trusted_of
from influencekit._verbs.curate.words import Found, verdict
from influencekit._verbs.estimate import estimate
from influencekit._verbs.results import about, check_windows, intercept_of, require_run
from influencekit.evaluation.retraining import set_effects
from influencekit.interfaces import Estimator
from influencekit.progress import track
from influencekit.queries import TestLoss, TestLosses
from influencekit.registry import label, listed, resolve
from influencekit.windows import Window

__all__ = ["curate"]

_RESAMPLES = 2000


@with_progress
@checked
def curate(
    trajectory: Trajectory,
    trusted: Any = None,
    choosers: Estimator | str | Sequence[Estimator | str] = "dit",
    k: tuple[int, ...] | None = None,
    seed: int = 0,
    draws: int = 8,
    level: float = 0.95,
    strategy: Strategy = "auto",
) -> xr.Dataset:
    """What to leave out of training, and how much better the model is without it, on data nobody chose on.

    `trusted`: examples with right labels that the run was not trained on, as `test=` of `open` takes them: a
    batch, a data set, a DataLoader. None = the run's own test set. `seed` splits them into two halves. On the
    first, every one of the `choosers` (estimators) scores the training examples for the mean loss; its k most
    harmful are a set, for each `k` (1, 2, 5, 10 and 20 % of the examples unless you say). All sets, and
    `draws` random ones of each size, are retrained exactly, on the recorded batches. The best set is the one
    that lowers the loss of the first half most; what it does is read from the second half, where it was never
    compared with others.

    The result has `effect` [chooser, k], the mean loss of the held-out half without the set minus with it
    (negative = better), from `low` to `high`, a bootstrap interval at `level` over held-out examples;
    `choosing_effect` [chooser, k], the same on the half that chose, which flatters; `predicted` [chooser, k],
    the sum of the scores; `random` and `random_choosing` [draw, k], the effects of random sets; `best_k`
    [chooser], by `choosing_effect`. Of the best chooser: `influence_score` [train], its scores scaled to 0
    (most harmful) ... 0.5 (no effect) ... 1, and `is_influence_issue` [train], whether to drop the example.
    `influence` [chooser, train] are the scores, `removed` [chooser, k, train] the sets, `held_out` [trusted]
    says which trusted examples judge.

    Attrs: `verdict`, one sentence; `recommendation`, "drop nothing" unless the interval of the best set lies
    below zero; `chooser` and `size` of the best set; `loss_held_out`, `loss_choosing`, both with all
    examples; `trainings` and `plan`, what was spent. The interval knows that other held-out examples would
    judge otherwise, not that another run of the same training would end elsewhere.

    Sign: removal minus full. Cost: the estimate of each chooser, and a training run for each set, divided by
    what batching gains; if this is above a minute, a line on stderr says so before it begins. Errors: no
    trusted data, fewer than 20, labels of other classes than in training, or more than a tenth of them
    trained on as well (equal contents; fewer such copies are left out, and `caution` says so); a k that
    leaves nothing to train on.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=40:epochs=2"))
        >>> found = ik.curate(run, k=(2, 4), draws=3)
        >>> found.effect.dims, found.random.dims, int(found.held_out.sum())
        (('chooser', 'k'), ('draw', 'k'), 128)
        >>> found.recommendation.startswith("drop")
        True
    """
    require_run(trajectory)
    check_seed("seed", seed)
    whole_number("draws", draws, 1)
    real_number("level", level, above=0.0, below=1.0)
    methods = {label(m): m for m in (resolve("estimator", one) for one in listed("choosers", choosers))}
    window = Window(0, trajectory.steps)
    for method in methods.values():
        check_windows(trajectory, method, [window])
    used, workload = trained(trajectory), trajectory.workload
    ks = sizes_of(len(used), k)
    given = trusted_of(trajectory, trusted)
    run = tested_on(trajectory, given.batch)
    refuse_random_evaluation(run.workload)
    choose, judge = split(len(given.ids), seed)
    plan = plan_of(run, (len(methods) + draws) * len(ks), strategy)
    say(plan)
    scores = _scores(run, methods, choose)
    masks = most_harmful(scores, used, ks)
    random = at_random(workload.n_train, used, ks, draws, seed)
    change = _changes(run, np.concatenate([masks, random]), window, strategy)
    chosen, by_chance = change[:, : len(masks)], change[:, len(masks) :]
    effect, choosing = chosen[judge].mean(0), chosen[choose].mean(0)
    low, high = intervals(chosen[judge], level, _RESAMPLES, seed)
    names, end = list(scores), run.evaluated(run.steps)
    loss = run.workload_at(run.steps).losses(end.theta, given.batch).detach().double().cpu().numpy()
    c, j = np.unravel_index(np.argmin(choosing), choosing.shape)
    best = Found(
        names[c], ks[j], choosing[c, j], effect[c, j], low[c, j], high[c, j], by_chance[judge].mean(0)[:, j],
        loss[judge].mean(),
    )  # fmt: skip
    influence = np.stack([one.influence.values[0, 0] for one in scores.values()])
    sums = np.where(masks, influence[:, None].astype(np.float64), 0).sum(-1)
    starts = np.array([intercept_of(one).item() for one in scores.values()])
    grid, better = ("chooser", "k"), written(TestLoss.better)
    return xr.Dataset(
        {
            "effect": (grid, effect, better),
            "low": (grid, low),
            "high": (grid, high),
            "choosing_effect": (grid, choosing, better),
            "predicted": (grid, sums + starts[:, None], better),
            "random": (("draw", "k"), by_chance[judge].mean(0)),
            "random_choosing": (("draw", "k"), by_chance[choose].mean(0)),
            "best_k": (("chooser",), np.array(ks)[choosing.argmin(-1)]),
            "influence_score": (("train",), scaled(influence[c])),
            "is_influence_issue": (("train",), masks[c, j] & best.helps),
            "influence": (("chooser", "train"), influence, better),
            "removed": (("chooser", "k", "train"), masks),
            "held_out": (("trusted",), np.isin(np.arange(len(loss)), judge)),
        },
        coords={
            "chooser": names,
            "k": list(ks),
            **{n: one for n, one in scores[names[c]].coords.items() if one.dims == ("train",)},
            "trusted": given.ids,
        },
        attrs={
            "verdict": verdict(best, len(judge), len(names) * len(ks)),
            "recommendation": best.recommendation,
            "chooser": best.chooser,
            "size": best.k,
            "loss_held_out": float(loss[judge].mean()),
            "loss_choosing": float(loss[choose].mean()),
            "level": level,
            "draws": draws,
            "split_seed": seed,
            "trainings": plan.sets,
            "plan": str(plan),
            **_attrs(run, methods, scores, given.trained_on),
        },
    )


def _scores(
    run: Trajectory, methods: Mapping[str, Estimator], choose: np.ndarray
) -> dict[str, xr.Dataset]:  # fmt: skip
    """What every chooser says of the mean loss of the choosing part."""
    rows = torch.from_numpy(choose).to(run.workload.device)
    asked = tested_on(run, select(run.workload.test, rows))
    each = track(methods.items(), "choosers", len(methods))
    return {name: estimate(asked, TestLoss(), method) for name, method in each}


def _changes(run: Trajectory, masks: np.ndarray, window: Window, strategy: Strategy) -> np.ndarray:
    """What leaving out each of the sets masks [group, k, train] changes of the loss of every trusted example:
    [trusted, group, k]. Equal sets are retrained once."""
    sets, place = np.unique(masks.reshape(-1, masks.shape[-1]), axis=0, return_inverse=True)
    found = set_effects(run, TestLosses(), sets, [window], strategy)[:, 0]
    return np.asarray(found[:, place.reshape(-1)].reshape(len(found), *masks.shape[:2]))


def _attrs(
    run: Trajectory, methods: Mapping[str, Estimator], scores: Mapping[str, xr.Dataset], copies: int
) -> dict[str, Any]:
    """What the result says of where it comes from, as other results do."""
    attrs = about(run, TestLoss(), next(iter(methods.values())))
    own = {n: v for n, v in attrs.items() if not n.startswith(("note_", "accuracy", "estimator", "caution"))}
    said = [scores[name].attrs.get("caution") for name in scores]
    if copies:
        said.append(f"{copies} trusted examples are also trained on, and were left out")
    caution = "; ".join(dict.fromkeys(each for each in said if each))
    return {**own, **({"caution": caution} if caution else {})}
