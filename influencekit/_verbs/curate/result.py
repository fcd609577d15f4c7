"""The result of `curate`, from what was measured."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from influencekit._direction import written
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.curate.choice import Choice, choice_of, judged, verdict_interval, wide_intervals
from influencekit._verbs.curate.folds import Folds
from influencekit._verbs.curate.sets import scaled
from influencekit._verbs.curate.trusted import Trusted
from influencekit._verbs.curate.words import Found, verdict
from influencekit._verbs.results import about, example_coords
from influencekit.interfaces import Estimator
from influencekit.queries import TestLoss

__all__ = ["Measured", "result_of"]

_RESAMPLES = 2000


class Measured(NamedTuple):
    """`change` [run, trusted, group, chooser, k] and `random` [run, trusted, draw, k] of the loss; `scores`
    [chooser, train] and `starts` [chooser] of the final sets; `masks` [run, group, chooser, k, train];
    `losses` [trusted] of the recorded run."""

    run: Trajectory
    methods: Mapping[str, Estimator]
    names: list[str]
    ks: tuple[int, ...]
    folds: Folds
    given: Trusted
    runs: list[str]
    change: np.ndarray
    random: np.ndarray
    scores: np.ndarray
    starts: np.ndarray
    masks: np.ndarray
    losses: np.ndarray
    cautions: list[str]


def result_of(measured: Measured, level: float, seed: int) -> xr.Dataset:
    """What `curate` gives. The interval is at `level`, from resamples drawn with `seed`."""
    m = measured
    final = m.folds.groups[()]
    unseen = m.folds.unseen(m.change)
    low, high = wide_intervals(unseen, level, _RESAMPLES, seed)
    best, (choices, each) = choice_of(unseen), judged(m.change, m.folds)
    choosing, by_chance = m.change[:, :, final].mean((0, 1)), m.random.mean((0, 1))
    set_itself = float(choosing[best.chooser, best.k])
    low_end, high_end = verdict_interval(each, set_itself, level, _RESAMPLES, seed)
    found = Found(
        m.names[best.chooser], m.ks[best.k], best.change, each.mean(), low_end, high_end,
        set_itself, by_chance[:, best.k], m.losses.mean(), len(m.losses),
        len(m.names) * len(m.ks), each.mean(1),
    )  # fmt: skip
    sets = m.masks[0, final]
    dropped = sets[best.chooser, best.k] & found.helps
    verified = dropped & (_in_judged_sets(m, choices) >= 0.5)
    grid, better = ("chooser", "k"), written(TestLoss.better)
    sums = np.where(sets, m.scores[:, None], 0).sum(-1) + m.starts[:, None]
    return xr.Dataset(
        {
            "effect": (grid, unseen.mean((0, 1)), better),
            "low": (grid, low),
            "high": (grid, high),
            "effect_runs": (("run", *grid), unseen.mean(1), better),
            "choosing_effect": (grid, choosing, better),
            "predicted": (grid, sums, better),
            "random": (("draw", "k"), by_chance),
            "best_k": (("chooser",), np.array(m.ks)[unseen.mean((0, 1)).argmin(-1)]),
            "judged": (("run", "trusted"), each, better),
            "fold": (("trusted",), m.folds.part),
            "fold_chooser": (("run", "fold_number"), [[m.names[c.chooser] for c in row] for row in choices]),
            "fold_k": (
                ("run", "fold_number"), [[m.ks[c.k] if c.drops else 0 for c in row] for row in choices]
            ),
            "influence_score": (("train",), scaled(m.scores[best.chooser])),
            "is_influence_issue": (("train",), dropped),
            "verified": (("train",), verified),
            "action": (("train",), np.where(dropped, "drop", "keep")),
            "influence": (("chooser", "train"), m.scores, better),
            "removed": (("chooser", "k", "train"), sets),
        },
        coords={
            "chooser": m.names,
            "k": list(m.ks),
            "run": m.runs,
            **example_coords(m.run.workload),
            "trusted": m.given.ids,
        },
        attrs={
            "verdict": verdict(found),
            "recommendation": found.recommendation,
            "chooser": found.chooser,
            "size": found.k,
            "judged_effect": float(found.effect),
            "judged_low": found.low,
            "judged_high": found.high,
            "loss": float(m.losses.mean()),
            "level": level,
            "folds": m.folds.count,
            "split_seed": seed,
            **_attrs(m),
        },
    )  # fmt: skip


def _in_judged_sets(m: Measured, choices: list[list[Choice]]) -> np.ndarray:
    """In which fraction of the sets that were judged each example is, [train]; a choice to drop nothing is an
    empty set."""
    each = [
        m.masks[run, m.folds.groups[(fold,)], one.chooser, one.k] & one.drops
        for run, row in enumerate(choices)
        for fold, one in enumerate(row)
    ]
    return np.asarray(np.mean(each, axis=0))


def _attrs(m: Measured) -> dict[str, Any]:
    """What the result says of where it comes from, as other results do."""
    attrs = about(m.run, TestLoss(), next(iter(m.methods.values())))
    own = {n: v for n, v in attrs.items() if not n.startswith(("note_", "accuracy", "estimator", "caution"))}
    said = [*m.cautions, *m.given.cautions]
    caution = "; ".join(dict.fromkeys(each for each in said if each))
    return {**own, **({"caution": caution} if caution else {})}
