"""How well does the figure of trust foretell agreement with exact retraining?

Truth: Spearman's correlation of dit with leave-one-out of all 256 examples, mean test loss, whole run. Every
bundled workload in both settings, its network also with softplus(20 x) / 20 in place of ReLU, and the
networks with AdamW. The figures are what `influencekit.trust` gives, and variants that it might have given.
The limits of warning were chosen on the seeds of the first half; everything is reported on the second half,
and the runs with AdamW played no part in the choice. `advice`: what the changes that the warning names do.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import click
import numpy as np
import torch
from torch import Tensor, nn

import influencekit as ik
from benchmarks.shared.processes import at_once
from benchmarks.shared.timing import timed
from benchmarks.shared.training import with_activation
from benchmarks.smoothness import build
from influencekit._effects.retrain import Weighting, retrained
from influencekit._verbs.trust import LIMITS
from influencekit.metrics import agreement, spearman

TAKES = "25 min"
POOLS = ("mnist-1v7", "adult", "20news")
CELLS = [(f"{p}-lr", setting, "ReLU") for p in POOLS for setting in ("paper", "trained")]
CELLS += [(f"{p}-dnn", s, a) for p in POOLS for s in ("paper", "trained") for a in ("ReLU", "softplus")]
OTHERS = [(f"{p}-dnn", "trained", "AdamW") for p in POOLS]
QUICK = {"seeds": 2, "processes": 1, "cells": CELLS[:1], "others": [], "changes": []}
LOW = 0.9
METHODS = {  # the built-in method that a figure is of
    "retrain:16": "retrain", "retrain:32": "retrain", "smooth": "smooth", "smooth, signs": "",
    "smooth, training losses": "smooth", "smooth, parameters": "", "smooth, signs of parameters": "",
}  # fmt: skip


def workload(name: str, setting: str, kind: str, seed: int) -> ik.Workload:
    if kind != "AdamW":
        return build(name, setting, kind, seed)
    return replace(build(name, setting, "ReLU", seed), optimizer=ik.AdamW(lr=0.003))


def one(job: tuple[str, str, str, int]) -> dict:
    scores, figures, spent = {}, {}, {}
    run, seed = ik.record(workload(*job)), job[-1]
    for method in ("dit", "loo"):
        scores[method], spent[method] = timed(partial(ik.estimate, run, "test-loss", method))
    truth = agreement(*(torch.tensor(s.influence.values.ravel()) for s in scores.values()))
    for figure in ("retrain:16", "retrain:32", "smooth"):
        method, _, count = figure.partition(":")
        options = {"examples": int(count)} if count else {}
        trust = partial(ik.trust, run, "test-loss", scores["dit"], method, seed=seed, **options)
        found, spent[figure] = timed(trust)
        figures[figure] = found.trust.item()
    figures |= variants(run, seed)
    return {
        "run": [*job],
        "accuracy": run.attrs["accuracy"],
        "pearson": round(truth[0].item(), 4),
        "spearman": round(truth[1].item(), 4),
        "figures": {k: round(v, 4) for k, v in figures.items()},
        "seconds": {k: round(v, 2) for k, v in spent.items()},
    }


def variants(run: ik.Trajectory, seed: int) -> dict[str, float]:
    """Other readings of the same two trainings as `smooth`: signs for cosine, parameters for test losses."""
    work, generator = run.workload, torch.Generator().manual_seed(seed)
    order = torch.randperm(work.n_train, generator=generator)
    few, others = order[:4].sort().values, order[4:]
    runs = [Weighting(few, 0.5), Weighting(few, 0.0)]
    (models,) = retrained(run, runs, (0, run.steps), [run.steps], "batch")
    place = np.argsort(models.members)
    test = models.changes(lambda theta: work.losses(theta, work.test))[:, place]
    fitted = models.changes(lambda theta: work.losses(theta, work.examples(others)))[:, place]
    theta = (models.theta - models.own).T[:, place]
    return {
        "smooth, signs": signs(test),
        "smooth, training losses": cosine(fitted),
        "smooth, parameters": cosine(theta),
        "smooth, signs of parameters": signs(theta),
    }


def cosine(changes: Tensor) -> float:
    return torch.cosine_similarity(changes[:, 0], changes[:, 1] - changes[:, 0], 0).item()


def signs(changes: Tensor) -> float:
    """Definition 2 of arXiv 2503.13751: agreement of signs, weighted by the whole movement."""
    first, second = changes[:, 0], changes[:, 1] - changes[:, 0]
    return ((first.sign() * second.sign() * changes[:, 1].abs()).sum() / changes[:, 1].abs().sum()).item()


def judged(rows: list[dict], figure: str, limit: float) -> dict:
    """Rank correlation with the truth, and the warning `figure < limit` against `truth < LOW`."""
    x = torch.tensor([row["figures"][figure] for row in rows]).double()
    truth = torch.tensor([row["spearman"] for row in rows]).double()
    low, warned = truth < LOW, x < limit
    return {
        "runs": len(rows),
        "limit": limit,
        "rank_correlation": round(spearman(x, truth).item(), 3) if len(rows) > 1 else None,
        "right": int((warned == low).sum()),
        "low": int(low.sum()),
        "missed": int((low & ~warned).sum()),
        "false_alarms": int((warned & ~low).sum()),
    }


def relative_time(rows: list[dict], figure: str) -> float | None:
    ratios = [row["seconds"][figure] / row["seconds"]["dit"] for row in rows if figure in row["seconds"]]
    return round(float(np.median(ratios)), 2) if ratios else None


def best_limit(rows: list[dict], figure: str) -> float:
    """The limit with which the warning is right most often (the middle one, of several)."""
    grid = np.arange(-1, 1.0001, 0.01).round(2)
    right = [judged(rows, figure, limit)["right"] for limit in grid]
    best = grid[np.array(right) == max(right)]
    return float(best[len(best) // 2])


def rate(work: ik.Workload, factor: float) -> ik.Workload:
    return replace(work, optimizer=replace(work.optimizer, lr=work.optimizer.lr * factor))


def adamw(work: ik.Workload, eps: float) -> ik.Workload:
    return replace(work, optimizer=ik.AdamW(lr=0.003, eps=eps))


CHANGES: dict[str, Callable[[ik.Workload], ik.Workload]] = {
    "as it is": lambda w: w,
    "GELU": lambda w: with_activation(w, nn.GELU),
    "learning rate / 2": lambda w: rate(w, 0.5),
    "batches x 2": lambda w: replace(w, batch_size=128),
    "batches x 4, epochs x 2": lambda w: replace(w, batch_size=256, epochs=2 * w.epochs),
    "AdamW, eps 1e-8": lambda w: adamw(w, 1e-8),
    "AdamW, eps 1e-4": lambda w: adamw(w, 1e-4),
    "AdamW, eps 1e-2": lambda w: adamw(w, 1e-2),
}


def changed(job: tuple[str, str, int]) -> dict:
    """What a change does to accuracy and truth."""
    name, change, seeds = job

    def make(seed: int) -> ik.Workload:
        return CHANGES[change](ik.make("workload", name, setting="trained", seed=seed))

    found = ik.compare(make, ["dit"], "loo:examples=96", seeds=range(seeds))
    spearmans = found.agreement.sel(estimator="dit", metric="spearman")
    return {
        "workload": name,
        "change": change,
        "accuracy": round(float(found.accuracy.mean()), 4),
        "spearman": round(float(spearmans.mean()), 3),
    }


def summary(rows: list[dict], seeds: int) -> dict:
    """What every figure is worth on the second half of the seeds."""
    bundled = [row for row in rows if row["run"][2] != "AdamW"]
    first, second = (
        [row for row in bundled if (row["run"][3] < seeds // 2) == early] for early in (True, False)
    )
    hard = [row for row in second if row["run"][0].endswith("-dnn") and row["run"][1] == "trained"]
    figures = {}
    for figure, method in METHODS.items():
        chosen = best_limit(first, figure)
        limit = LIMITS.get(method, chosen)
        figures[figure] = {
            "best_limit_on_the_first_half": chosen,
            **judged(second, figure, limit),
            "median_time_relative_to_dit": relative_time(rows, figure),
            "trained_networks": judged(hard, figure, limit),
            "adamw": judged([row for row in rows if row["run"][2] == "AdamW"], figure, limit),
        }
    return figures


@click.option("--seeds", default=16)
@click.option("--processes", default=2)
def answer(
    seeds: int, processes: int, cells: list = CELLS, others: list = OTHERS, changes: Iterable[str] = CHANGES
) -> dict:
    jobs = [(*cell, seed) for seed in reversed(range(seeds)) for cell in cells]
    jobs += [(*cell, seed) for seed in range(seeds // 2, seeds) for cell in others]
    rows = []
    for row in at_once(one, jobs, processes):
        rows.append(row)
        print(len(rows), len(jobs), *row["run"], row["spearman"], row["figures"], flush=True)
    tried = [(f"{p}-dnn", change, min(4, seeds)) for p in POOLS for change in changes]
    return {
        "seeds": seeds,
        "low": LOW,
        "limits": LIMITS,
        "figures": summary(rows, seeds),
        "advice": [*at_once(changed, tried, processes)],
        "rows": [{k: v for k, v in row.items() if k != "seconds"} for row in rows],
    }
