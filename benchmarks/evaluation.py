"""What are four estimators worth by the evaluations beside agreement, and the intervals?

Two workloads in the setting `trained`: linear datamodeling score (of the mean test loss, and the mean over
the losses of the single test examples), leave-k-out, brittleness, mislabel AUC, Taylor slope. And how often
95 % intervals hold the true rank correlation of pairs of normal numbers of known correlation, some with
outliers: the one that is used, and plain percentiles of the same resamples.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy.stats import spearmanr

import influencekit as ik
from benchmarks.shared.results import each, spread
from influencekit.evaluation import bootstrap, over_seeds, summary

TAKES = "5 min"
CASES = ("mnist-1v7-lr", "mnist-1v7-dnn")
ESTIMATORS = ("dit", "sgd-influence", "if", "loo")
ASKED = {
    "test-loss": "lds:m=200,leave-k-out,brittleness,mislabel-auc,taylor",
    "test-losses": "lds:m=200,brittleness",
}
QUICK = {
    "seeds": 1, "trials": 2, "cases": ["mnist-1v7-lr"], "estimators": ("dit",),
    "asked": {"test-loss": "lds:m=8", "test-losses": "lds:m=8"},
}  # fmt: skip
DRAWS = (  # correlation, pairs, queries, share of outliers
    (0.5, 10, 1), (0.9, 10, 1), (0.5, 20, 1), (0.85, 20, 1), (0.85, 20, 1, 0.1), (0.99, 20, 1, 0.1),
    (0.5, 30, 1), (0.95, 30, 1), (0.95, 30, 1, 0.1), (0.8, 100, 1),
    (0.9, 20, 20), (0.95, 30, 50), (0.8, 100, 50), (0.99, 100, 50),
)  # fmt: skip


def measure(name: str, seeds: int, estimators: tuple[str, ...], asked: dict[str, str]) -> dict[str, Any]:
    found: dict[str, list[Any]] = {query: [] for query in asked}
    accuracy, spent = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            run = ik.record(ik.make("workload", name, setting="trained", seed=seed))
            accuracy.append(run.attrs["accuracy"])
            began = time.perf_counter()
            for query, words in asked.items():
                subsets = Path(folder) / f"seed-{seed}"
                found[query].append(ik.evaluate(run, words, query, estimators, subsets=subsets))
            spent += time.perf_counter() - began
    return {
        "accuracy": spread(accuracy),
        "seconds": spent,
        "queries": {
            query: {k: summary(v) for k, v in over_seeds(one, range(seeds)).items()}
            for query, one in found.items()
        },
    }


def coverage(trials: int, rho: float, pairs: int, queries: int, outliers: float = 0.0) -> dict[str, Any]:
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
        used = bootstrap.interval(estimate, again, left_out, 0.95, pairs)
        both = used, np.nanquantile(again, [0.025, 0.975])
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


@click.option("--seeds", default=4)
@click.option("--trials", default=300)
def answer(
    seeds: int, trials: int, cases: list[str], estimators: tuple[str, ...] = ESTIMATORS,
    asked: dict[str, str] = ASKED,
) -> dict:  # fmt: skip
    return {
        "seeds": seeds,
        "coverage": [coverage(trials, *draw) for draw in DRAWS],
        "workloads": each(cases, lambda name: measure(name, seeds, estimators, asked)),
    }
