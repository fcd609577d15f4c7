"""What is a sum of scores worth when the scores chose what is summed, and who finds the examples that matter?

The 5, 10 and 20 % most harmful and most helpful examples by `dit` and by exact leave-one-out, mean test loss,
whole run, setting `trained`: their sum in the run that chose them; on runs whose start was moved by a
thousandth, of the same examples (held out) and with every run choosing in turn (cross-fitted); shrunk by the
ICC; and what retraining without all of them shows, in the recorded run and on average over the moved ones. A
further moved run, which is used for nothing else, says whether the interval of one more run's sum holds.
And the query loss difference of several estimators.
"""

from typing import Any

import click
import numpy as np
import pandas as pd
import torch
import xarray as xr

import influencekit as ik
from benchmarks.shared.results import each, spread
from influencekit._effects.retrain import Weighting
from influencekit._effects.selection import crossfitted, extremes, held_out, icc, shrunk
from influencekit._trajectory.rerun import moved, rerun
from influencekit.estimators.loo import retraining_effects
from influencekit.evaluation import QLD, over_seeds, summary

TAKES = "20 min"
MERGES = True
CASES = ("mnist-1v7-dnn", "adult-dnn", "20news-dnn")
ESTIMATORS = {"dit": 6, "loo": 4}  # how many moved runs; the last is the one more
ENDS = {"harmful": -1, "helpful": 1}  # of a loss: the sign of the effects of removal
PARTS = (0.05, 0.1, 0.2)
RANKED = ("loo", "dit", "if", "grad-cos", "random")
SUMS = ("plain", "held_out", "crossfitted", "shrunk", "retrained", "retrained_moved")
QUICK = {
    "seeds": 1,
    "cases": ["mnist-1v7-dnn"],
    "estimators": {"dit": 3},
    "ranked": ("dit", "random"),
}


def measure(
    name: str, seeds: int, fraction: float, estimators: dict[str, int], ranked: tuple[str, ...]
) -> dict[str, Any]:
    rows, found, accuracy = [], [], []
    for seed in range(seeds):
        run = ik.record(ik.make("workload", name, setting="trained", seed=seed))
        accuracy.append(run.attrs["accuracy"])
        most = max(estimators.values())
        others = [rerun(run, start=moved(run, fraction, number)) for number in range(1, most + 1)]
        own = {
            method: ik.estimate(run, "test-loss", method)
            for method in {**estimators, **dict.fromkeys(ranked)}
        }
        rows += sums(seed, run, others, estimators, own)
        names = pd.Index(ranked, name="estimator")
        scores = xr.concat([own[method] for method in ranked], names, combine_attrs="drop_conflicts")
        found.append(ik.evaluate(run, {"qld": QLD()}, "test-loss", scores=scores))
        print(name, seed, rows[-1], flush=True)
    return {
        "accuracy": spread(accuracy),
        "icc": {m: spread([r["icc"] for r in rows if r["estimator"] == m]) for m in estimators},
        "sums": summarised(rows, estimators),
        "qld": summary(over_seeds(found, range(seeds))["qld"]),
        "choices": rows,
    }


def sums(
    seed: int, run: ik.Trajectory, others: list[ik.Trajectory], estimators: dict[str, int],
    own: dict[str, xr.Dataset],
) -> list[dict]:  # fmt: skip
    """A row for each estimator, end and size; the last of the other runs is the one more."""
    query, whole, rows = ik.make("query", "test-loss"), [ik.Window(0, run.steps)], []
    for method, runs in estimators.items():
        every = run, *others[:runs]
        found = [own[method], *(ik.estimate(r, query, method) for r in every[1:])]
        scores = np.stack([one.influence.values[0, 0] for one in found])
        scores, last = scores[:-1].astype(np.float64), scores[-1].astype(np.float64)
        choices = {
            (end, part): extremes(scores, round(part * scores.shape[1]), side).astype(np.float64)
            for end, side in ENDS.items()
            for part in PARTS
        }
        sets = [Weighting(torch.from_numpy(masks[0].nonzero()[0])) for masks in choices.values()]
        truth = np.stack(
            [retraining_effects(r, query, sets, whole)[0, 0].double().numpy() for r in every[:-1]]
        )
        for j, ((end, part), masks) in enumerate(choices.items()):
            same, rule = held_out(scores[1:] @ masks[0]), crossfitted(np.einsum("at,bt->ab", masks, scores))
            figures = {
                "plain": scores[0] @ masks[0], "held_out": same.value, "crossfitted": rule.value,
                "shrunk": shrunk(scores, masks[0]), "retrained": truth[0, j],
                "retrained_moved": truth[1:, j].mean(), "low": same.low, "high": same.high,
                "run_low": same.run_low, "run_high": same.run_high,
                "rule_low": rule.low, "rule_high": rule.high,
                "one_more": last @ masks[0], "icc": icc(scores),
            }  # fmt: skip
            about = {"seed": seed, "estimator": method, "end": end, "part": part, "k": int(masks[0].sum())}
            rows.append(about | {name: round(float(x), 6) for name, x in figures.items()})
    return rows


def summarised(rows: list[dict], estimators: dict[str, int]) -> list[dict]:
    """By estimator, end and size, over seeds: every sum, and what the plain one is off by; coverage."""
    found = []
    for method in estimators:
        for end in ENDS:
            for part in PARTS:
                asked = (method, end, part)
                some = [r for r in rows if (r["estimator"], r["end"], r["part"]) == asked]
                column = {key: np.array([r[key] for r in some]) for key in some[0] if key not in ABOUT}
                found.append(
                    dict(zip(("estimator", "end", "part"), asked, strict=True))
                    | {key: spread(column[key]) for key in SUMS}
                    | {
                        "choice": spread(column["plain"] - column["held_out"]),
                        "not_additive": spread(column["held_out"] - column["retrained_moved"]),
                        "one_run": spread(column["retrained_moved"] - column["retrained"]),
                        "holds_one_more_run": inside(column, "run", "one_more"),
                        "holds_retrained": inside(column, "run", "retrained"),
                        "expected_holds_retrained_moved": inside(column, "", "retrained_moved"),
                    }
                )
    return found


ABOUT = {"seed", "estimator", "end", "part", "k"}


def inside(column: dict[str, np.ndarray], which: str, value: str) -> float:
    low, high = (column[f"{which}_{end}" if which else end] for end in ("low", "high"))
    return float(((low <= column[value]) & (column[value] <= high)).mean())


@click.option("--seeds", default=4)
@click.option("--moved", "fraction", default=0.001)
def answer(
    seeds: int, fraction: float, cases: list[str], estimators: dict[str, int] = ESTIMATORS,
    ranked: tuple[str, ...] = RANKED,
) -> dict:  # fmt: skip
    return {
        "seeds": seeds,
        "moved_runs": estimators,
        "moved": fraction,
        "workloads": each(cases, lambda name: measure(name, seeds, fraction, estimators, ranked)),
    }
