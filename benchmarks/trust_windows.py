"""Does trust by window separate the windows that may be believed from those that may not?

The windows are those of `ik.trust(run, windows="horizons")`: absence from the start, in the last epochs, and
in one epoch before the end. Truth: Spearman's correlation of dit with leave-one-out of all 256 examples, mean
test loss, in each window. A figure separates as well as the area under the ROC curve says: of a window whose
truth is above .8 and one whose truth is below .5, how often is the figure of the first the higher one? Limits
were chosen on the first seeds; what is reported is measured on the others. Every run is kept in a file beside
the result until the whole is done, so an interrupted measurement goes on where it was.
"""

import json
from collections import defaultdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import influencekit as ik
from benchmarks.shared.processes import at_once
from benchmarks.shared.results import RESULTS
from benchmarks.shared.timing import timed
from benchmarks.trust import CELLS, OTHERS, workload
from influencekit._verbs.results import windows_of
from influencekit._verbs.trust import LIMITS
from influencekit.metrics import agreement

TAKES = "40 min"
RUNS = sorted(  # the hard ones first
    [cell for cell in CELLS if cell[2] == "ReLU"] + OTHERS,
    key=lambda cell: ("-lr" in cell[0], cell[1] == "paper"),
)
QUICK = {"chosen": 1, "measured": 1, "processes": 1, "runs": RUNS[:1], "keep": None}
HIGH, LOW = 0.8, 0.5
FIGURES = ("trust", "spearman", "pearson", "metasmoothness")
KEPT = RESULTS / "trust_windows.partial.jsonl"


def one(job: tuple[str, str, str, int, int | None]) -> dict:
    *what, examples = job
    run, seed = ik.record(workload(*what)), what[-1]
    found, seconds = timed(lambda: ik.trust(run, seed=seed, method="retrain", windows="horizons"))
    smooth, smooth_seconds = timed(lambda: ik.trust(run, seed=seed, method="smooth", windows="horizons"))
    windows = windows_of(found)
    loo = ik.make("estimator", "loo", examples=examples, seed=1000 + seed)
    truth, loo_seconds = timed(lambda: ik.estimate(run, "test-loss", loo, windows))
    scores, known = ik.estimate(run, "test-loss", "dit", windows), truth.influence[0, 0].notnull().values
    pairs = [torch.tensor(x.influence.values[0][:, known]) for x in (scores, truth)]
    pearson, spearman = agreement(*pairs)[:, :2].T.tolist()
    columns = {
        "removal": found.removal.values.tolist(),
        "reach": found.reach.values.tolist(),
        "gap": found.gap.values.tolist(),
        "true_spearman": spearman,
        "true_pearson": pearson,
        **{name: found[name].values.tolist() for name in ("trust", "spearman", "pearson", "scale")},
        "metasmoothness": smooth.trust.values.tolist(),
    }
    checks = dict(zip(found.check.values.tolist(), found.check_value.values.tolist(), strict=True))
    return {
        "run": what,
        "asked": examples,
        "accuracy": run.attrs["accuracy"],
        "steps": run.steps,
        "believed": found.believed,
        "trainings": found.trainings,
        "runs": round(found.runs, 1),
        "seconds": {"trust": seconds, "smooth": smooth_seconds, "loo": loo_seconds},
        "checks": {name: float(f"{value:.4g}") for name, value in checks.items()},
        **{k: [round(x, 4) if isinstance(x, float) else x for x in v] for k, v in columns.items()},
    }


def windows_in(rows: list[dict]) -> list[dict[str, Any]]:
    """The windows of all runs, one by one; those without a truth, or without a figure, do not count."""
    found = []
    for row in rows:
        for k, truth in enumerate(row["true_spearman"]):
            figures = [row[name][k] for name in FIGURES]
            if np.isfinite([truth, *figures]).all():
                words = {"removal": row["removal"][k], "workload": row["run"][0], "setting": row["run"][1]}
                found.append({"truth": truth, **words, **dict(zip(FIGURES, figures, strict=True))})
    return found


def auc(windows: list[dict], figure: str) -> float | None:
    """How often the figure of a window above `HIGH` is higher than that of one below `LOW`; ties are half."""
    high, low = (
        np.array([w[figure] for w in windows if side(w["truth"])])
        for side in (lambda x: x > HIGH, lambda x: x < LOW)
    )
    if not (len(high) and len(low)):
        return None
    gaps = high[:, None] - low
    return float((gaps > 0).mean() + (gaps == 0).mean() / 2)


def judged(windows: list[dict], figure: str, limit: float) -> dict:
    """Of all windows the AUC, and how often `figure >= limit` is right of those above and below."""
    high = [w[figure] for w in windows if w["truth"] > HIGH]
    low = [w[figure] for w in windows if w["truth"] < LOW]
    x, truth = (torch.tensor([w[name] for w in windows]).double() for name in (figure, "truth"))
    return {
        "windows": len(windows), "high": len(high), "low": len(low),
        "auc": auc(windows, figure),
        "rank_correlation": float(agreement(x, truth)[1]) if len(windows) > 2 else None,
        "limit": limit,
        "high_believed": sum(v >= limit for v in high), "low_believed": sum(v >= limit for v in low),
    }  # fmt: skip


def best_limit(windows: list[dict], figure: str) -> float:
    """The limit with the largest sum of both rates of being right (the middle one, of several)."""
    high = np.array([w[figure] for w in windows if w["truth"] > HIGH])
    low = np.array([w[figure] for w in windows if w["truth"] < LOW])
    grid = np.arange(-1, 1.0001, 0.01).round(2)
    if not (len(high) and len(low)):
        return LIMITS["retrain"]
    right = np.array([(high >= limit).mean() + (low < limit).mean() for limit in grid])
    best = grid[right == right.max()]
    return float(best[len(best) // 2])


def by(windows: list[dict], *names: str) -> dict[str, list[dict]]:
    groups = defaultdict(list)
    for window in windows:
        groups[" ".join(window[name] for name in names)].append(window)
    return dict(sorted(groups.items()))


def summary(rows: list[dict], chosen: int) -> dict:
    """What every figure is worth on the later seeds, with a limit of the first ones."""
    first, others = (
        windows_in([row for row in rows if (row["run"][3] < chosen) == early]) for early in (True, False)
    )
    found = {}
    for figure in FIGURES:
        limit = best_limit(first, figure)
        found[figure] = {
            "chosen_on": {"auc": auc(first, figure), "limit": limit},
            "measured": judged(others, figure, limit),
            "by_removal": {k: judged(some, figure, limit) for k, some in by(others, "removal").items()},
        }
    limit = LIMITS["retrain"]
    return {
        "figures": found,
        "at_the_limit_of_the_warning": judged(others, "trust", limit),
        "by_workload": {
            k: judged(some, "trust", limit) for k, some in by(others, "workload", "setting").items()
        },
        "seconds": {
            name: float(np.mean([row["seconds"][name] for row in rows]))
            for name in ("trust", "smooth", "loo")
        },
    }


@click.option("--chosen", default=2, help="Seeds on which figure and limit are chosen.")
@click.option("--measured", default=4, help="Seeds after them, on which they are measured.")
@click.option("--examples", type=int, help="Truth of so many random examples; of all unless you say.")
@click.option("--processes", default=1)
def answer(
    chosen: int, measured: int, examples: int | None, processes: int, runs: list = RUNS,
    keep: Path | None = KEPT,
) -> dict:  # fmt: skip
    early, late = range(chosen), range(chosen, chosen + measured)
    order = [seed for pair in zip_longest(early, late) for seed in pair if seed is not None]
    jobs = [(*cell, seed, examples) for seed in order for cell in runs]
    rows = []
    if keep is not None and keep.exists():
        rows = [json.loads(line) for line in keep.read_text(encoding="utf-8").splitlines()]
    done = {(*row["run"], row["asked"]) for row in rows}
    left = [job for job in jobs if job not in done]
    for row in map(one, left) if processes == 1 else at_once(one, left, processes):
        rows.append(row)
        if keep is not None:
            with keep.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        print(len(rows), len(jobs), *row["run"], row["seconds"], row["believed"], flush=True)
    rows = [row for row in rows if (*row["run"], row["asked"]) in jobs]
    return {
        "chosen_seeds": chosen, "measured_seeds": measured, "high": HIGH, "low": LOW,
        "examples": examples, **summary(rows, chosen),
        "rows": [{k: v for k, v in row.items() if k != "seconds"} for row in rows],
    }  # fmt: skip
