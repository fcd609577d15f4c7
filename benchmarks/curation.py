"""Does leaving out what `curate` recommends help on data that nobody chose or judged with?

Setting `trained`, with and without wrong labels planted in a tenth of the training examples. The 256
validation examples are trusted. Outside are up to 2,000 others of the same pool (712 of the newsgroups,
656 for `minilm`, which trains the last layer and the head): no chooser and no verdict sees them. Each
chooser curates alone. `recommended`: the relative change of the outside loss by what is recommended, 0 where
that is nothing. `best`: the same if its best set were dropped whatever the verdict. `covered`: the stated
interval holds the outside effect of the best set; `agree`: the two differ by no more than 1.96 deviations,
those of the outside mean included, since its examples do not know the truth either; `promised_too_much`: the
outside effect lies above the interval. Where no choice lowers the loss, nothing is stated. Seeds begin at 6:
with those before, the number of folds, the rule for k and the width of the interval were chosen, and with
those before 22 how far its better end goes: `unseen` are the seeds from 22 on. A cell is a
workload, a fraction of flips and a seed: it is kept in `--folder`, and a call that was stopped goes on where
it was.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

import influencekit as ik
from benchmarks.shared.larger import larger, pool_size
from benchmarks.shared.photographs import photographs
from benchmarks.shared.processes import at_once
from benchmarks.shared.results import kept
from benchmarks.shared.targets import target_of, with_target
from influencekit._training.batch import select, tensors_of
from influencekit.evaluation.retraining import set_effects
from influencekit.registry import load

TAKES = "1 hour"
BUNDLED = ("mnist-1v7-dnn", "adult-dnn", "20news-dnn", "adult-lr", "20news-lr")
CASES = (*BUNDLED, "cifar", "minilm")
FOLDER = Path(tempfile.gettempdir()) / "influencekit-curation"
QUICK = {"seeds": 1, "cases": ["adult-lr"], "folder": None}
FLIPS = (0.0, 0.1)
FIRST, UNSEEN = 6, 22
SIZE, OUTSIDE = 256, 2000
_SIDED = 1.96  # deviations in the half width of an interval at 95 %


@dataclass(frozen=True)
class FinalLoss(ik.Estimator):
    """The loss of each training example at the end, negated: high = most harmful."""

    claims = frozenset({ik.Claim.AVERAGED})

    def scores(self, trajectory: Any, query: Any, windows: Sequence[ik.Window]) -> Tensor:
        workload, end = trajectory.workload_at(trajectory.steps), trajectory.evaluated(trajectory.steps)
        with torch.no_grad():
            losses = workload.losses(end.theta, workload.examples(torch.arange(workload.n_train)))
        return -losses.expand(len(query.labels(workload)), len(windows), -1)


@dataclass(frozen=True)
class Chance(ik.Estimator):
    """Scores that mean nothing."""

    seed: int = 0
    claims = frozenset({ik.Claim.AVERAGED})

    def scores(self, trajectory: Any, query: Any, windows: Sequence[ik.Window]) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        count = len(query.labels(trajectory.workload)), len(windows), trajectory.workload.n_train
        return torch.randn(*count, generator=generator)


def choosers(case: str, seed: int) -> dict[str, Any]:
    """Those that curate alone, and three side by side."""
    if case not in BUNDLED:
        return {"dit": "dit", "final loss": FinalLoss()}
    return {
        "dit": "dit", "dit:centre=0.9": "dit:centre=0.9", "dit, centred, mean": "dit,dit:centre=0.9,mean",
        "loo": "loo", "final loss": FinalLoss(), "random": Chance(seed),
    }  # fmt: skip


def prepared(case: str, seed: int, data: Path | None) -> ik.Workload:
    """256 training examples, 256 trusted ones as validation set, and as test set further ones of the pool."""
    if case == "cifar":
        return photographs(data, seed, train=SIZE, validation=SIZE, test=OUTSIDE)
    if case == "minilm":
        from benchmarks.minilm.last_layer import last_layer

        return _parted(last_layer(seed, SIZE, SIZE + OUTSIDE))
    n_train = load("workload", case).settings["trained"].n_train
    return _parted(larger(case, seed, n_train, min(pool_size(case) - n_train, SIZE + OUTSIDE)))


def _parted(workload: ik.Workload) -> ik.Workload:
    """Of the validation set the first are trusted, the others outside."""
    given = workload.validation
    assert given is not None
    first, rest = torch.arange(len(tensors_of(given)[0])).tensor_split([SIZE])
    return replace(workload, validation=select(given, first), test=select(given, rest), test_ids=None)


def flipped(workload: ik.Workload, fraction: float, seed: int) -> tuple[ik.Workload, np.ndarray]:
    """The workload with so many wrong labels of two, and which they are."""
    labels = target_of(workload).clone()
    wrong = np.random.default_rng(1000 + seed).permutation(len(labels))[: round(fraction * len(labels))]
    labels[wrong] = 1 - labels[wrong]
    return with_target(workload, labels), wrong


def one(job: tuple[str, float, int, Path, Path | None, float]) -> dict[str, Any] | None:
    """The figures of a cell, made or kept; None where there is no time left to make them."""
    case, fraction, seed, folder, data, until = job
    name = f"{case}-{fraction:g}-{seed}"
    if time.time() > until and not (folder / f"{name}.json").exists():
        return None
    return kept(folder, name, partial(measure, case, fraction, seed, data))


def measure(case: str, fraction: float, seed: int, data: Path | None) -> dict[str, Any]:
    workload, wrong = flipped(prepared(case, seed, data), fraction, seed)
    run = ik.record(workload)
    end = run.evaluated(run.steps).theta
    with torch.no_grad():
        outside = workload.losses(end, workload.test).double().numpy()
    found = {
        "workload": case,
        "flips": fraction,
        "seed": seed,
        "loss": round(float(outside.mean()), 5),
        "choosers": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, given in choosers(case, seed).items():
            one = ik.curate(run, workload.validation, given, folder=Path(folder) / "kept")
            found["choosers"][name] = figures(run, one, outside, wrong)
    return found


def figures(run: Any, one: Any, before: np.ndarray, wrong: np.ndarray) -> dict[str, Any]:
    """Of a curation: what it says, and what its best set does to the outside losses `before`."""
    best = one.sel(chooser=one.attrs["chooser"], k=one.attrs["size"])
    mask = best.removed.values
    effects = set_effects(run, ik.make("query", "test-losses"), mask[None], [ik.Window(0, run.steps)])
    judged, low, high = (one.attrs[f"judged_{end}"] for end in ("effect", "low", "high"))
    outside = float(effects.mean())
    side = judged - low if outside < judged else high - judged
    deviation = np.hypot(side / _SIDED, effects.std() / len(before) ** 0.5)
    states = float(best.effect) < 0
    return {
        "k": one.attrs["size"],
        "drops": bool(one.is_influence_issue.any()),
        "judged": [round(end, 5) for end in (judged, low, high)],
        "where_chosen": round(float(best.choosing_effect), 5),
        "outside": round(outside, 5),
        "relative": round(outside / before.mean(), 5),
        "covered": low <= outside <= high if states else None,
        "agree": bool(abs(judged - outside) <= _SIDED * deviation) if states else None,
        "wrong_labels": round(float(mask[wrong].sum() / mask.sum()), 3),
        "trainings": int(one.trainings),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """{chooser: what its recommendations do over some cells}; relative changes of the outside loss."""
    found = {}
    for name in choosers(BUNDLED[0], 0):
        each = [row["choosers"][name] for row in rows if name in row["choosers"]]
        if not each:
            continue
        best = np.array([one["relative"] for one in each])
        drops = np.array([one["drops"] for one in each])
        said = [one for one in each if one["covered"] is not None]
        found[name] = {
            "cells": len(each),
            "drops": int(drops.sum()),
            "recommended": {"mean": float((best * drops).mean()), "worst": float((best * drops).max())},
            "best": {"mean": float(best.mean()), "worst": float(best.max())},
            "worse_by_1_percent": int((best * drops > 0.01).sum()),
            "stated": len(said),
            "covered": float(np.mean([one["covered"] for one in said])) if said else np.nan,
            "promised_too_much": int(sum(one["outside"] > one["judged"][2] for one in said)),
            "agree": float(np.mean([one["agree"] for one in said])) if said else np.nan,
            "wrong_labels": float(np.mean([one["wrong_labels"] for one in each])),
            "trainings": float(np.mean([one["trainings"] for one in each])),
        }
    return found


@click.option("--data", type=click.Path(path_type=Path, exists=True), help="The .npz file of images.")
@click.option("--seeds", default=16)
@click.option("--processes", default=1)
@click.option("--minutes", default=600.0, help="After these, no cell is begun.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=FOLDER)
def answer(
    data: Path | None,
    seeds: int,
    processes: int,
    cases: list[str],
    folder: Path | None,
    minutes: float = 600.0,
) -> dict[str, Any]:
    folder, until = Path(tempfile.mkdtemp()) if folder is None else folder, time.time() + 60 * minutes
    jobs = [(c, f, s, folder, data, until) for s, c, f in product(range(FIRST, FIRST + seeds), cases, FLIPS)]
    rows = []
    for row in at_once(one, jobs, processes):
        if row is not None:
            rows.append(row)
            said = {
                name: [x["k"], x["drops"], round(x["relative"], 3)] for name, x in row["choosers"].items()
            }
            print(row["workload"], row["flips"], row["seed"], said, flush=True)
    rows.sort(key=lambda row: (cases.index(row["workload"]), row["flips"], row["seed"]))
    groups = {
        f"{case}, {fraction:g}": [r for r in rows if (r["workload"], r["flips"]) == (case, fraction)]
        for case, fraction in product(cases, FLIPS)
    }
    return {
        "seeds": {c: len({row["seed"] for row in rows if row["workload"] == c}) for c in cases},
        "cells": {name: summary(some) for name, some in groups.items() if some},
        "flips": {f"{f:g}": summary([r for r in rows if r["flips"] == f]) for f in FLIPS},
        "all": summary(rows),
        "unseen": summary([r for r in rows if r["seed"] >= UNSEEN]),
        "rows": rows,
    }
