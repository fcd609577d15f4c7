"""Does data value embedding agree with exact trajectory-specific leave-one-out, and in which epochs?

mnist-1v7-dnn (8-8 net, 6,361 parameters), plain SGD, query: mean test loss. In every epoch each example
occurs once; `tsloo` drops it there alone and retrains to the end. Spearman over the 256 examples, for each
epoch: `dvemb` without projection and with 1024 features a layer, and `dit`, the same sum with the true
Hessian or with outer products over all layers at once. All-epoch removal: the sums over epochs against the
sum of `tsloo`, and against `loo`, which drops all occurrences together.
"""

import statistics
from functools import partial

import click
import torch
from influencekit_dvemb import TSLOO, DVEmb

import influencekit as ik
from benchmarks.shared.timing import timed
from influencekit.metrics import spearman

TAKES = "25 min"
SETTINGS = {
    "trained": {},  # as registered: lr .02, batches of 64, 42 epochs, L2 .001
    "peers": {"lr": 0.05, "batch_size": 32, "epochs": 20},  # that of the comparison with other libraries
}
CASES = tuple(SETTINGS)
QUICK = {"seeds": 1, "cases": ["trained"], "epochs": 1}
ESTIMATORS: dict[str, ik.Estimator] = {
    "dvemb": DVEmb(dim=None),
    "dvemb, 1024 features a layer": DVEmb(dim=1024),
    "dit": ik.make("estimator", "dit"),
    "dit:curvature=fisher": ik.make("estimator", "dit:curvature=fisher"),
}


def one(name: str, seed: int, epochs: int | None) -> dict:
    """Spearman of every estimator with `tsloo` by epoch, and of the sums over epochs, of one seed."""
    options = SETTINGS[name] | ({"epochs": epochs} if epochs else {})
    workload = ik.make("workload", "mnist-1v7-dnn", setting="trained", seed=seed, **options)
    run = ik.record(workload)
    last = int(run.plan.epoch[-1]) + 1
    truth, spent = timed(lambda: scores(run, TSLOO()))
    loo, more = timed(lambda: torch.from_numpy(ik.estimate(run, "test-loss", "loo").influence.values[0, 0]))
    found = {
        "seed": seed, "accuracy": run.attrs["accuracy"], "epochs": last, "steps": run.steps,
        "seconds": {"tsloo": spent + more}, "tsloo, all epochs, with loo": float(spearman(truth.sum(0), loo)),
    }  # fmt: skip
    for label, estimator in ESTIMATORS.items():
        mine, found["seconds"][label] = timed(partial(scores, run, estimator))
        found[label] = {
            "epochs": spearman(mine, truth).tolist(),
            "all epochs": float(spearman(mine.sum(0), truth.sum(0))),
            "all epochs, with loo": float(spearman(mine.sum(0), loo)),
        }
    print(name, seed, {k: round(found[k]["epochs"][-1], 3) for k in ESTIMATORS}, flush=True)
    return found


def scores(run: ik.Trajectory, estimator: ik.Estimator) -> torch.Tensor:
    """[epoch, train]: the effect at the end of dropping an example in one epoch."""
    found = ik.estimate(run, "test-loss", estimator, "each-epoch", "occurrence")
    return torch.from_numpy(found.influence.values[0])


def summary(seeds: list[dict]) -> dict:
    """Mean and least over the seeds, for every estimator and epoch."""
    out = {}
    for name in ESTIMATORS:
        by_epoch = list(zip(*(each[name]["epochs"] for each in seeds), strict=True))
        out[name] = {
            "mean": [statistics.mean(e) for e in by_epoch],
            "least": [min(e) for e in by_epoch],
            **{k: statistics.mean(s[name][k] for s in seeds) for k in ("all epochs", "all epochs, with loo")},
        }
    return out


def measure(name: str, count: int, epochs: int | None) -> dict:
    seeds = [one(name, seed, epochs) for seed in range(count)]
    return {
        "accuracy": statistics.mean(s["accuracy"] for s in seeds),
        "epochs": seeds[0]["epochs"],
        "steps": seeds[0]["steps"],
        "estimators": summary(seeds),
        "tsloo, all epochs, with loo": statistics.mean(s["tsloo, all epochs, with loo"] for s in seeds),
        "seeds": seeds,
    }


@click.option("--seeds", default=8)
def answer(seeds: int, cases: list[str], epochs: int | None = None) -> dict:
    return {"seeds": seeds, "settings": {name: measure(name, seeds, epochs) for name in cases}}
