"""How well do sums of scores rank sets: dit, dit centred on the mean weight of the sets, single retraining?

Linear datamodeling score (Spearman) of 100 random sets, mean test loss, setting `trained`: halves, with
`dit:centre=0.5` beside `dit` and summed `loo`, and sets of 90 %, with `dit:centre=0.9`. The networks and the
logistic regressions with their SGD, and with AdamW of learning rate .003. In intervals: the mean difference
over seeds, with Student's t at 95 %. `sizes`: the slope of retrained on predicted over the same sets.
Every run is kept in `--folder`: a call that was stopped goes on where it was.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy.stats import t as student

import influencekit as ik
from benchmarks.shared.processes import at_once
from benchmarks.shared.results import kept, spread
from influencekit.metrics import spearman

TAKES = "60 min"
MERGES = True
POOLS = ("mnist-1v7-dnn", "adult-dnn", "20news-dnn", "mnist-1v7-lr", "adult-lr")
CASES = (*POOLS, *(f"{pool}, AdamW, eps {eps}" for eps in ("1e-8", "1e-4") for pool in POOLS))
FOLDER = Path(tempfile.gettempdir()) / "influencekit-sets"
QUICK = {"seeds": 1, "processes": 1, "sets": 6, "cases": ["mnist-1v7-lr"], "folder": None}
FRACTIONS = (0.5, 0.9)


def workload(case: str, seed: int) -> ik.Workload:
    name, _, rest = case.partition(", AdamW, eps ")
    found = ik.make("workload", name, setting="trained", seed=seed)
    return replace(found, optimizer=ik.AdamW(lr=0.003, eps=float(rest))) if rest else found


def one(job: tuple[str, int, int, Path]) -> dict[str, Any]:
    """The figures of a seed, made or kept."""
    case, seed, sets, folder = job
    return kept(folder, f"{case}-{seed}-{sets}", partial(measure, case, seed, sets))


def measure(case: str, seed: int, sets: int) -> dict[str, Any]:
    """The run of a seed: {fraction: {estimator: [LDS, slope]}}."""
    run = ik.record(workload(case, seed))
    scores = {name: ik.estimate(run, "test-loss", name) for name in ("dit", "loo")}
    found: dict[str, Any] = {"case": case, "seed": seed, "accuracy": run.attrs["accuracy"]}
    for fraction in FRACTIONS:
        centred = f"dit:centre={fraction:g}"
        scores["centred"] = ik.estimate(run, "test-loss", centred)
        evaluation = {"lds": ik.make("evaluation", "lds", m=sets, fraction=fraction, resamples=10)}
        lds, rows = ik.evaluate(run, evaluation, "test-loss", scores=scores["dit"])["lds"], {}
        retrained = lds.retrained.values[0, 0]
        for name, each in scores.items():  # of the same sets
            predicted = each.influence.values[0, 0] @ lds.left_out.values.T
            predicted = predicted + (each.intercept.item() if "intercept" in each else 0)
            slope = predicted @ retrained / (predicted @ predicted)
            rank = float(spearman(torch.from_numpy(predicted), torch.from_numpy(retrained)))
            rows[name] = [round(rank, 4), round(float(slope), 4)]
        found[f"{fraction:g}"] = rows
    return found


def paired(differences: Sequence[float]) -> dict[str, float]:
    """The mean of differences and its interval at 95 %."""
    count, mean = len(differences), float(np.mean(differences))
    half = np.nan
    if count > 1:
        half = student.ppf(0.975, count - 1) * np.std(differences, ddof=1) / np.sqrt(count)
    return {"mean": mean, "low": mean - float(half), "high": mean + float(half)}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the seeds of a case: accuracy, and by the fraction that stays the LDS of each method."""
    found: dict[str, Any] = {"seeds": len(rows), "accuracy": spread([row["accuracy"] for row in rows])}
    for fraction in (f"{f:g}" for f in FRACTIONS):
        each = {name: np.array([row[fraction][name] for row in rows]) for name in rows[0][fraction]}
        centred = each["centred"][:, 0]
        found[fraction] = {
            "lds": {name: spread(values[:, 0]) for name, values in each.items()},
            "sizes": {name: spread(values[:, 1]) for name, values in each.items()},
            "centred_minus": {name: paired(centred - each[name][:, 0]) for name in each if name != "centred"},
        }
    return found


@click.option("--seeds", default=16)
@click.option("--adam-seeds", default=8)
@click.option("--processes", default=1)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=FOLDER)
def answer(
    seeds: int, processes: int, cases: list[str], folder: Path | None, adam_seeds: int = 8, sets: int = 100
) -> dict:
    folder = Path(tempfile.mkdtemp()) if folder is None else folder
    found, runs = {}, {}
    for case in cases:
        count = min(seeds, adam_seeds) if "AdamW" in case else seeds
        rows = []
        for row in at_once(one, [(case, seed, sets, folder) for seed in range(count)], processes):
            rows.append(row)
            print(row, flush=True)
        found[case], runs[case] = summary(rows), rows
    return {"sets": sets, "cases": found, "runs": runs}
