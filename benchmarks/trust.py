"""How well the figure of trust foretells the agreement of first-order scores with exact retraining.

    python benchmarks/trust.py            # writes results/trust.json

Truth: Spearman's correlation of dit with leave-one-out of all 256 examples, mean test loss, whole run. Every
bundled workload in both settings, its network also with softplus(20 x) / 20 in place of ReLU, and the
networks with AdamW. The figures are what `influencekit.trust` gives, and variants that it might have given.
The limits of warning were chosen on the seeds of the first half; everything is reported on the second half,
and the runs with AdamW played no part in the choice. `advice`: what the changes that the warning names do.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from machine import machine
from smoothness import build
from torch import Tensor, nn

import influencekit as ik
from influencekit.effects.retrain import Weighting, retrained
from influencekit.metrics import agreement, spearman
from influencekit.verbs.trust import LIMITS

RESULTS = Path(__file__).parent / "results"
POOLS = ("mnist-1v7", "adult", "20news")
LOW = 0.9
CELLS = [(f"{p}-lr", setting, "ReLU") for p in POOLS for setting in ("paper", "trained")]
CELLS += [(f"{p}-dnn", s, a) for p in POOLS for s in ("paper", "trained") for a in ("ReLU", "softplus")]
OTHERS = [(f"{p}-dnn", "trained", "AdamW") for p in POOLS]
FIGURES = ("retrain:16", "retrain:32", "smooth", "smooth, signs", "smooth, training losses",
           "smooth, parameters", "smooth, signs of parameters")  # fmt: skip


BUILT_IN = {"retrain:16": "retrain", "retrain:32": "retrain", "smooth": "smooth",
            "smooth, training losses": "smooth"}  # fmt: skip


def workload(name: str, setting: str, kind: str, seed: int) -> ik.Workload:
    if kind != "AdamW":
        return build(setting, kind, seed, name)
    return replace(build(setting, "ReLU", seed, name), optimizer=ik.AdamW(lr=0.003))


def one(job: tuple[str, str, str, int]) -> dict:
    torch.set_num_threads(1)
    name, setting, kind, seed = job
    began = time.perf_counter()
    run = ik.record(workload(*job))
    seconds = {"training": time.perf_counter() - began}
    scores = {}
    for method in ("dit", "loo"):
        began = time.perf_counter()
        scores[method] = ik.estimate(run, "test-loss", method)
        seconds[method] = time.perf_counter() - began
    truth = agreement(*(torch.tensor(s.influence.values.ravel()) for s in scores.values()))
    figures = {}
    for figure in FIGURES[:3]:
        method, _, count = figure.partition(":")
        began = time.perf_counter()
        options = {"examples": int(count)} if count else {}
        found = ik.trust(run, "test-loss", scores["dit"], method, seed=seed, **options)
        figures[figure], seconds[figure] = found.trust.item(), time.perf_counter() - began
    figures |= variants(run, seed)
    return {
        "run": [name, setting, kind, seed],
        "accuracy": run.attrs["accuracy"],
        "pearson": round(truth[0].item(), 4),
        "spearman": round(truth[1].item(), 4),
        "figures": {k: round(v, 4) for k, v in figures.items()},
        "seconds": {k: round(v, 2) for k, v in seconds.items()},
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


# what the figures are worth -----------------------------------------------------------------------------


def judged(rows: list[dict], figure: str, limit: float) -> dict:
    """Rank correlation with the truth, and the warning `figure < limit` against `truth < LOW`."""
    x = torch.tensor([row["figures"][figure] for row in rows]).double()
    truth = torch.tensor([row["spearman"] for row in rows]).double()
    low, warned = truth < LOW, x < limit
    return {
        "runs": len(rows),
        "limit": limit,
        "rank_correlation": round(spearman(x, truth).item(), 3),
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


# what the advice is worth -------------------------------------------------------------------------------


def with_activation(work: ik.Workload, kind: Callable[[], nn.Module]) -> ik.Workload:
    model = work.model
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, kind())
    return replace(work, model=model)


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
    torch.set_num_threads(1)
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


def main(seeds: int, processes: int) -> dict:
    jobs = [(*cell, seed) for seed in reversed(range(seeds)) for cell in CELLS]
    jobs += [(*cell, seed) for seed in range(seeds // 2, seeds) for cell in OTHERS]
    tried = [(f"{p}-dnn", change, min(4, seeds)) for p in POOLS for change in CHANGES]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        rows = []
        for row in pool.map(one, jobs):
            rows.append(row)
            print(len(rows), len(jobs), *row["run"], row["spearman"], row["figures"], flush=True)
        advice = list(pool.map(changed, tried))
    return summary(rows, advice, seeds)


def summary(rows: list[dict], advice: list[dict], seeds: int) -> dict:
    bundled = [row for row in rows if row["run"][2] != "AdamW"]
    first, second = (
        [row for row in bundled if (row["run"][3] < seeds // 2) == early] for early in (True, False)
    )
    hard = [row for row in second if row["run"][0].endswith("-dnn") and row["run"][1] == "trained"]
    figures = {}
    for figure in FIGURES:
        chosen = best_limit(first, figure)
        limit = LIMITS.get(BUILT_IN.get(figure, ""), chosen)
        figures[figure] = {
            "best_limit_on_the_first_half": chosen,
            **judged(second, figure, limit),
            "median_time_relative_to_dit": relative_time(rows, figure),
            "trained_networks": judged(hard, figure, limit),
            "adamw": judged([row for row in rows if row["run"][2] == "AdamW"], figure, limit),
        }
    return {
        "command": " ".join(["python benchmarks/trust.py", *sys.argv[1:]]),
        "machine": machine(),
        "seeds": seeds,
        "low": LOW,
        "limits": LIMITS,
        "figures": figures,
        "advice": advice,
        "rows": [{k: v for k, v in row.items() if k != "seconds"} for row in rows],
    }


def text(report: dict) -> str:
    """JSON with a line for each run."""
    head = json.dumps({k: v for k, v in report.items() if k != "rows"}, indent=1)
    return head[:-2] + ',\n "rows": [\n  ' + ",\n  ".join(map(json.dumps, report["rows"])) + "\n ]\n}\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    report = main(arguments.seeds, arguments.processes)
    (RESULTS / "trust.json").write_text(text(report))
    print(json.dumps({k: v for k, v in report.items() if k != "rows"}, indent=1))
