"""What four estimators are worth by the evaluations beside agreement, and what the intervals are worth.

    python benchmarks/evaluation.py            # writes results/evaluation.json

Two workloads in the setting `trained`, four seeds: linear datamodeling score (of the mean test loss, and the
mean over the losses of the single test examples), leave-k-out, brittleness, mislabel AUC, Taylor slope. And
how often 95 % intervals hold the true rank correlation of pairs of normal numbers of known correlation, some
with outliers: the one that is used, and plain percentiles of the same resamples.
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from scipy.stats import spearmanr

import influencekit as ik
from influencekit.cli.output import to_json
from influencekit.evaluation import bootstrap, over_seeds, summary

RESULTS = Path(__file__).parent / "results" / "evaluation.json"
WORKLOADS = ("mnist-1v7-lr", "mnist-1v7-dnn")
ESTIMATORS = ("dit", "sgd-influence", "if", "loo")
EVALUATIONS = "lds:m=200,leave-k-out,brittleness,mislabel-auc,taylor"
CASES = (
    (0.5, 10, 1), (0.9, 10, 1), (0.5, 20, 1), (0.85, 20, 1), (0.85, 20, 1, 0.1), (0.99, 20, 1, 0.1),
    (0.5, 30, 1), (0.95, 30, 1), (0.95, 30, 1, 0.1), (0.8, 100, 1),
    (0.9, 20, 20), (0.95, 30, 50), (0.8, 100, 50), (0.99, 100, 50),
)  # fmt: skip


def workload(name: str, seeds: int) -> dict[str, Any]:
    found: dict[str, list[Any]] = {"test-loss": [], "test-losses": []}
    accuracy, seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            run = ik.record(ik.make("workload", name, setting="trained", seed=seed))
            accuracy.append(run.attrs["accuracy"])
            for query, asked in (("test-loss", EVALUATIONS), ("test-losses", "lds:m=200,brittleness")):
                began = time.perf_counter()
                found[query].append(
                    ik.evaluate(run, asked, query, ESTIMATORS, subsets=Path(folder) / f"seed-{seed}")
                )
                seconds.append(time.perf_counter() - began)
    return {
        "accuracy": {"mean": float(np.mean(accuracy)), "std": float(np.std(accuracy))},
        "seconds": sum(seconds),
        "queries": {
            query: {k: summary(v) for k, v in over_seeds(each, range(seeds)).items()}
            for query, each in found.items()
        },
    }


def coverage(
    rho: float, pairs: int, queries: int, outliers: float = 0.0, trials: int = 300
) -> dict[str, Any]:
    """Of so many trials, the share in which each interval holds the truth, and its mean width.

    Pairs of normal numbers of correlation rho; of this share of them one side is drawn anew.
    """
    truth, generator = 6 / np.pi * np.arcsin(rho / 2), np.random.default_rng(0)
    if outliers:
        many = drawn_pairs(rho, 1, 1_000_000, outliers, np.random.default_rng(1))
        truth = spearmanr(many[0][0], many[1][0])[0]
    rows = []
    for trial in range(trials):
        x, y = drawn_pairs(rho, queries, pairs, outliers, generator)
        counts = np.concatenate([bootstrap.drawn(pairs, 500, (trial,)), bootstrap.without_each(pairs)])
        estimate = np.mean([spearmanr(a, b)[0] for a, b in zip(x, y, strict=True)])
        again = np.mean([bootstrap.spearman(a, b, counts) for a, b in zip(x, y, strict=True)], 0)
        again, left_out = again[:500], again[500:]
        both = (
            bootstrap.interval(estimate, again, left_out, 0.95, pairs),
            np.nanquantile(again, [0.025, 0.975]),
        )
        rows.append([[low <= truth <= high, high - low] for low, high in both])
    used, percentile = np.mean(rows, 0).tolist()
    return {
        "rho": rho, "pairs": pairs, "queries": queries, "outliers": outliers, "trials": trials,
        "used": used[0], "used_width": used[1], "percentile": percentile[0],
        "percentile_width": percentile[1],
    }  # fmt: skip


def drawn_pairs(
    rho: float, queries: int, pairs: int, outliers: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    x, noise = generator.normal(size=(2, queries, pairs))
    y = rho * x + np.sqrt(1 - rho**2) * noise
    if outliers:
        wrong = generator.random((queries, pairs)) < outliers
        y = np.where(wrong, generator.normal(size=(queries, pairs)), y)
    return x, y


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "command": "python benchmarks/evaluation.py",
        "machine": machine(),
        "seeds": options.seeds,
        "coverage": [coverage(*case) for case in CASES],
    }
    say = partial(print, flush=True)
    say(json.dumps(report["coverage"], indent=1))
    report["workloads"] = {}
    for name in WORKLOADS:
        report["workloads"][name] = workload(name, options.seeds)
        say(name, report["workloads"][name]["seconds"])
    RESULTS.write_text(to_json(report), encoding="utf-8")


if __name__ == "__main__":
    main()
