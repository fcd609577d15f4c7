"""Do scores agree with exact retraining as in the paper's Table II?

Query: mean test loss. Window: the whole run. Reference: leave-one-out retraining of every example on the same
batches. Beside the figures stand the means that the paper prints.
"""

import time
from functools import partial

import click
import xarray as xr

import influencekit as ik
from benchmarks.shared.processes import at_once
from benchmarks.shared.results import spread

TAKES = "1 min"
RESULTS = ("table2-paper.json", "table2-trained.json")
METRICS = ("pearson", "spearman", "kendall", "jaccard")
# The means that the paper prints (arXiv 2502.10793, Table II): DIT, then influence functions.
PRINTED = {
    "adult-lr": ([0.99, 0.99, 0.95, 0.91], [0.91, 0.93, 0.79, 0.71]),
    "20news-lr": ([0.99, 0.99, 0.97, 0.95], [0.90, 0.94, 0.84, 0.78]),
    "mnist-1v7-lr": ([0.93, 0.98, 0.95, 0.91], [0.76, 0.61, 0.49, 0.48]),
    "adult-dnn": ([0.95, 0.95, 0.83, 0.75], [0.88, 0.86, 0.69, 0.56]),
    "20news-dnn": ([0.85, 0.85, 0.71, 0.67], [0.77, 0.80, 0.62, 0.55]),
    "mnist-1v7-dnn": ([0.90, 0.98, 0.90, 0.85], [0.25, 0.26, 0.19, 0.27]),
}
CASES = tuple(PRINTED)
QUICK = {"seeds": 1, "processes": 1, "cases": ["mnist-1v7-lr"]}


def build(name: str, setting: str, seed: int) -> ik.Workload:
    return ik.make("workload", name, setting=setting, seed=seed)


def one(job: tuple[str, str, tuple[int, ...]]) -> xr.Dataset:
    name, setting, seeds = job
    return ik.compare(partial(build, name, setting), ["dit", "if"], seeds=seeds)


@click.option("--setting", type=click.Choice(["paper", "trained"]), default="paper")
@click.option("--seeds", default=16)
@click.option("--processes", default=2)
def answer(setting: str, seeds: int, processes: int, cases: list[str]) -> dict:
    began = time.perf_counter()
    each = -(-seeds // processes)
    parts = [tuple(range(seeds))[i : i + each] for i in range(0, seeds, each)]
    done = at_once(one, [(name, setting, part) for name in cases for part in parts], processes)
    rows, reached = {}, 0
    for name in cases:
        result = xr.concat([next(done) for _ in parts], "seed", data_vars="minimal", join="override")
        rows[name] = {
            "accuracy": spread(result.accuracy.values),
            "estimators": {
                method: {
                    **{m: spread(result.agreement.sel(estimator=method, metric=m).values) for m in METRICS},
                    "seconds": result.seconds.sel(estimator=method).mean().item(),
                }
                for method in ("dit", "if", "loo")
            },
            "printed": dict(zip(("dit", "if"), PRINTED[name], strict=True)),
            "notes": result.attrs["notes"],
        }
        dit = rows[name]["estimators"]["dit"]
        reached += sum(dit[m]["mean"] >= least for m, least in zip(METRICS, PRINTED[name][0], strict=True))
    return {
        "file": f"table2-{setting}.json",
        "setting": setting,
        "seeds": seeds,
        "wall_seconds": round(time.perf_counter() - began, 1),
        "cells_at_least_printed": f"{reached} of {len(cases) * len(METRICS)}",
        "workloads": rows,
    }
