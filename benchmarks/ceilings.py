"""How well does leave-one-out agree with itself, and how near does an estimate come to that?

Query: mean test loss. Window: the whole run. Leave-one-out of every example (of 16, for convolutions, which
are retrained one after the other), of the recorded run and of its plan trained again from starts that are
moved by .001 and .01 of each tensor's RMS. `agreement`: one run with another. `ceiling`: what the expected
effect would reach against one run; divide an estimate's agreement with `loo` by it. `ceiling of mean`: the
same against the mean over the runs, for an estimate's agreement with that.

Effects are kept in `--folder`, a run at a time, and a row of figures for each workload and seed: a call that
was stopped, or that has no minutes left, continues where it was, and more `--seeds` or `--runs` are added.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import click
import numpy as np
import torch
import xarray as xr

import influencekit as ik
from benchmarks.shared.processes import at_once
from benchmarks.shared.results import kept, spread
from benchmarks.shared.timing import timed
from influencekit._repeatability import again
from influencekit._verbs.ceiling import agreements
from influencekit.metrics import METRICS, agreement

TAKES = "2 h"
CASES = (
    "mnist-1v7-dnn", "adult-dnn", "20news-dnn", "kmnist-dnn", "mnist-1v7-lr", "adult-lr", "20news-lr",
    "kmnist-lr", "mnist-1v7-cnn", "kmnist-cnn",
)  # fmt: skip
QUICK = {"seeds": 1, "setting": "both", "runs": 3, "cases": ["adult-lr"], "folder": None}
MOVED = (0.001, 0.01)
METHODS = ("dit", "if")
NEAR = 0.03  # of the ceiling at the largest R
ONE_BY_ONE = 16  # examples that are left out of networks with convolutions
FOLDER = Path(tempfile.gettempdir()) / "influencekit-ceilings"

Job = tuple[str, str, int, int, str, float]  # workload, setting, seed, runs, folder, when to begin no more


def one(job: Job) -> dict | None:
    """The row of figures of a workload and a seed; None where no time is left to begin."""
    name, setting, seed, runs, folder, until = job
    piece = f"{name}-{setting}-{seed}-{runs}"
    make = partial(measure, name, setting, seed, runs, Path(folder))
    return kept(Path(folder), piece, make, until) or None


def measure(name: str, setting: str, seed: int, runs: int, folder: Path) -> dict:
    run = ik.record(ik.make("workload", name, setting=setting, seed=seed))
    scores, seconds = {}, {}
    for method in METHODS:
        found, seconds[method] = timed(partial(ik.estimate, run, "test-loss", method))
        scores[method] = torch.from_numpy(found.influence.values[0, 0]).double()
    examples = ONE_BY_ONE if name.endswith("cnn") else None
    row = {"workload": name, "setting": setting, "seed": seed, "runs": runs, "moved": {}}
    for moved in MOVED:
        store = folder / f"{name}-{setting}-{seed}-{moved:g}"
        found = ik.ceiling(run, runs=runs, moved=moved, examples=examples, store=store)
        row["moved"][f"{moved:g}"] = figures(found, scores)
        seconds.setdefault("loo", float(found.seconds[0]))
        seconds[f"ceiling {moved:g}"] = float(found.seconds.sum(skipna=False))
    row |= {"accuracy": run.attrs["accuracy"], "seconds": seconds}
    return row


def figures(found: xr.Dataset, scores: dict[str, torch.Tensor]) -> dict:
    """What is told of one ceiling: by metric, by number of runs, and of the estimates."""
    each = found.squeeze(["query", "window"])
    effects = torch.from_numpy(found.effects.values).double()
    known = effects[0, 0, 0].isfinite()
    loo, expected = effects[0, 0, 0, known], effects.mean(0)[0, 0, known]

    def metrics(values: xr.DataArray) -> dict[str, float]:
        return dict(zip(METRICS, values.values.tolist(), strict=True))

    return {
        "accuracy": spread(each.accuracy.values),
        **{name: metrics(each[name]) for name in ("agreement", "loo_again", "rest")},
        "ceiling": metrics(each.ceiling.sel(target="loo")),
        "ceiling of mean": metrics(each.ceiling.sel(target="expected-loo")),
        **{k: float(each[k]) for k in ("icc", "icc_consistency", "ceiling_one", "ceiling_mean")},
        "sign is certain": float((each.sign_certainty > 0.975).values[known.numpy()].mean()),
        "by_runs": {r: by_runs(effects[:r]) for r in range(2, len(effects) + 1)},
        "estimators": {
            method: {
                target: dict(zip(METRICS, agreement(values[known], truth).tolist(), strict=True))
                for target, truth in (("loo", loo), ("expected", expected))
            }
            for method, values in scores.items()
        },
    }


def by_runs(effects: torch.Tensor) -> dict[str, float]:
    """The ceilings that the first runs give."""
    found = {k: v for k, (_, v) in agreements(effects).items()}
    return {
        "spearman": float(found["ceiling"][0, 1, 0, 0]),
        "pearson": float(found["ceiling"][0, 0, 0, 0]),
        "ceiling_one": float(found["ceiling_one"][0, 0]),
    }


def mean_of(rows: list[dict]) -> dict:
    """The figures of all seeds of a workload and setting, each as mean and deviation over seeds."""
    first = rows[0]
    if isinstance(first, dict):
        return {k: mean_of([row[k] for row in rows]) for k in first}
    return spread([np.nan if x is None else x for x in rows])


def summary(rows: list[dict]) -> dict:
    """{workload: {setting: figures}}, and how many runs are enough."""
    found: dict = {}
    for name, setting in dict.fromkeys((row["workload"], row["setting"]) for row in rows):
        mine = [row for row in rows if (row["workload"], row["setting"]) == (name, setting)]
        parts = [
            {m: {k: v for k, v in row["moved"][m].items() if k != "by_runs"} for m in row["moved"]}
            for row in mine
        ]
        found.setdefault(name, {})[setting] = {
            "seeds": len(mine),
            "runs": sorted({row["runs"] for row in mine}),
            "accuracy": spread([row["accuracy"] for row in mine]),
            "moved": mean_of(parts),
            "shares": {m: shares([row["moved"][m] for row in mine]) for m in mine[0]["moved"]},
            "assumption_off_by": model_error(mine),
            "cost_relative_to_loo": spread([cost(row) for row in mine]),
        }
    return found


def shares(rows: list[dict]) -> dict:
    """estimate / ceiling of the means over seeds, by estimator, target and metric."""
    ends = {"loo": "ceiling", "expected": "ceiling of mean"}
    return {
        method: {
            target: {
                m: float(
                    np.mean([row["estimators"][method][target][m] for row in rows])
                    / np.mean([row[ends[target]][m] for row in rows])
                )
                for m in METRICS
            }
            for target in ends
        }
        for method in METHODS
    }


def model_error(rows: list[dict]) -> dict[str, float]:
    """How far off, at most, the agreement of pairs of runs foretells that of a run with the mean of the
    others: whether the assumption behind the ceilings holds."""
    found = {}
    for m in METRICS:
        pairs = [(x, row["runs"] - 1) for row in rows for x in row["moved"].values()]
        apart = [abs(x["rest"][m] - float(again(m, torch.tensor(x["agreement"][m]), n))) for x, n in pairs]
        found[m] = max(apart)
    return found


def cost(row: dict) -> float:
    """Of a ceiling relative to one leave-one-out; NaN where a part of it was kept."""
    spent = row["seconds"].get(f"ceiling {MOVED[0]:g}")
    return spent / row["seconds"]["loo"] if spent and row["seconds"]["loo"] else np.nan


def enough(rows: list[dict]) -> dict:
    """Of the trained networks: from how many runs on the ceiling stays within NEAR of that of all runs."""
    hard = [row for row in rows if row["workload"].endswith("dnn") and row["setting"] == "trained"]
    found = {}
    for moved, figure in product((f"{m:g}" for m in MOVED), ("spearman", "pearson", "ceiling_one")):
        smallest = []
        for row in hard:
            values = np.array([x[figure] for x in row["moved"][moved]["by_runs"].values()], dtype=float)
            apart = np.flatnonzero(~(np.abs(values - values[-1]) <= NEAR))
            smallest.append(2 + (apart[-1] + 1 if len(apart) else 0))
        if hard:
            most = max(row["runs"] for row in hard)
            found[f"moved {moved}: {figure}"] = {
                "median": float(np.median(smallest)),
                "enough_for": {r: float(np.mean(np.array(smallest) <= r)) for r in range(2, most + 1)},
            }
    return found


def best(folder: Path) -> Iterator[dict]:
    """The rows that are there, of every workload, setting and seed the one with the most runs."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    rows.sort(key=lambda row: (CASES.index(row["workload"]), row["setting"], row["seed"], row["runs"]))
    yield from {(row["workload"], row["setting"], row["seed"]): row for row in rows}.values()


@click.option("--seeds", default=16)
@click.option("--setting", type=click.Choice(["trained", "paper", "both"]), default="both")
@click.option("--runs", default=12, help="Of networks; 4 of logistic regression and of convolutions.")
@click.option("--minutes", default=600.0, help="After these, no workload is begun.")
@click.option("--processes", default=1)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=FOLDER)
def answer(
    seeds: int, setting: str, runs: int, minutes: float, processes: int, cases: list[str], folder: Path | None
) -> dict:
    folder = Path(tempfile.mkdtemp()) if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    until = time.time() + 60 * minutes
    few = min(runs, 4)
    settings = ("trained", "paper") if setting == "both" else (setting,)
    jobs: list[Job] = [
        (name, each, seed, runs if name.endswith("dnn") else few, str(folder), until)
        for seed, each, name in product(range(seeds), settings, cases)
        if not name.endswith("cnn") or (each == "trained" and seed < 2)
    ]
    jobs.sort(key=lambda job: job[0].endswith("cnn"))  # those that take long come last
    for row in at_once(one, jobs, processes):
        if row is not None:
            told = row["moved"]["0.001"]
            shown = [
                row["workload"],
                row["setting"],
                row["seed"],
                row["runs"],
                round(told["ceiling"]["spearman"], 3),
            ]
            print(*shown, round(told["estimators"]["dit"]["loo"]["spearman"], 3), flush=True)
    rows = [row for row in best(folder) if row["workload"] in cases and row["seed"] < seeds]
    return {"near": NEAR, "enough_runs": enough(rows), "workloads": summary(rows), "rows": rows}
