"""Agreement with exact retraining, beside the figures of the paper's Table II.

    python benchmarks/agreement.py table2                       # paper setting, 16 seeds
    python benchmarks/agreement.py table2 --setting trained

Query: mean test loss. Window: the whole run. Reference: leave-one-out retraining of every example on the same
batches. Writes results/table2-SETTING.json and .md.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from machine import machine

import influencekit as ik

RESULTS = Path(__file__).parent / "results"
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


def build(name: str, setting: str, seed: int) -> ik.Workload:
    return ik.make("workload", name, setting=setting, seed=seed)


def one(job: tuple[str, str, tuple[int, ...]]) -> xr.Dataset:
    name, setting, seeds = job
    torch.set_num_threads(1)
    return ik.compare(partial(build, name, setting), ["dit", "if"], seeds=seeds)


def table2(setting: str, seeds: int, processes: int) -> None:
    began = time.perf_counter()
    each = -(-seeds // processes)
    parts = [tuple(range(seeds))[i : i + each] for i in range(0, seeds, each)]
    jobs = [(name, setting, part) for name in PRINTED for part in parts]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        done = list(pool.map(one, jobs))
    rows = {}
    for k, name in enumerate(PRINTED):
        result = xr.concat(
            done[k * len(parts) : (k + 1) * len(parts)], "seed", data_vars="minimal", join="override"
        )
        rows[name] = {
            "accuracy": _spread(result.accuracy.values),
            "estimators": {
                method: {
                    **{m: _spread(result.agreement.sel(estimator=method, metric=m).values) for m in METRICS},
                    "seconds": result.seconds.sel(estimator=method).mean().item(),
                }
                for method in ("dit", "if", "loo")
            },
            "printed": dict(zip(("dit", "if"), PRINTED[name], strict=True)),
            "notes": result.attrs["notes"],
        }
    reached = sum(
        rows[n]["estimators"]["dit"][m]["mean"] >= PRINTED[n][0][k]
        for n in PRINTED
        for k, m in enumerate(METRICS)
    )
    report = {
        "command": "python benchmarks/agreement.py " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "setting": setting,
        "seeds": seeds,
        "wall_seconds": round(time.perf_counter() - began, 1),
        "cells_at_least_printed": f"{reached} of {len(PRINTED) * len(METRICS)}",
        "workloads": rows,
    }
    path = RESULTS / f"table2-{setting}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".md").write_text(text := markdown(report))
    print(text)


def markdown(report: dict) -> str:
    lines = [
        f"`{report['command']}`, {report['seeds']} seeds, {report['machine']}; mean ± deviation over seeds, "
        f"the paper's figure in brackets. DIT reaches the printed figure in "
        f"{report['cells_at_least_printed']} cells.",
        "",
        "| workload | test accuracy | estimator | Pearson | Spearman | Kendall | Jaccard 30 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in report["workloads"].items():
        for method in ("dit", "if"):
            cells = [
                f"{v['mean']:.3f} ± {v['std']:.3f} [{p:.2f}]"
                for v, p in zip(
                    (row["estimators"][method][m] for m in METRICS), row["printed"][method], strict=True
                )
            ]
            lines.append(f"| {name} | {row['accuracy']['mean']:.3f} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _spread(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=["table2"])
    parser.add_argument("--setting", choices=["paper", "trained"], default="paper")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    table2(arguments.setting, arguments.seeds, arguments.processes)
