"""Data value embedding against exact trajectory-specific leave-one-out, by the epoch of the removal.

    python benchmarks/dvemb.py                     # both settings, 8 seeds; writes results/dvemb.json
    python benchmarks/dvemb.py --seeds 2 --settings trained   # one of them; prints only

mnist-1v7-dnn (8-8 net, 6,361 parameters), plain SGD, query: mean test loss. In every epoch each example
occurs once; `tsloo` drops it there alone and retrains to the end. Spearman over the 256 examples, for each
epoch: `dvemb` without projection and with 1024 features a layer, and `dit`, the same sum with the true
Hessian or with outer products over all layers at once. All-epoch removal: the sums over epochs against the
sum of `tsloo`, and against `loo`, which drops all occurrences together.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from influencekit_dvemb import TSLOO, DVEmb
from machine import machine

import influencekit as ik
from influencekit.metrics import spearman

RESULTS = Path(__file__).parent / "results"
SETTINGS = {
    "trained": {},  # as registered: lr .02, batches of 64, 42 epochs, L2 .001
    "peers": {"lr": 0.05, "batch_size": 32, "epochs": 20},  # that of the comparison with other libraries
}
ESTIMATORS: dict[str, ik.Estimator] = {
    "dvemb": DVEmb(dim=None),
    "dvemb, 1024 features a layer": DVEmb(dim=1024),
    "dit": ik.make("estimator", "dit"),
    "dit:curvature=fisher": ik.make("estimator", "dit:curvature=fisher"),
}


def one(options: dict, seed: int) -> dict:
    """Spearman of every estimator with `tsloo` by epoch, and of the sums over epochs, of one seed."""
    workload = ik.make("workload", "mnist-1v7-dnn", setting="trained", seed=seed, **options)
    run = ik.record(workload)
    last = int(run.plan.epoch[-1]) + 1
    began = time.perf_counter()
    truth = torch.from_numpy(scores(run, TSLOO()))
    loo = torch.from_numpy(ik.estimate(run, "test-loss", "loo").influence.values[0, 0])
    found = {"seed": seed, "accuracy": run.attrs["accuracy"], "epochs": last, "steps": run.steps}
    found["seconds"] = {"tsloo": time.perf_counter() - began}
    found["tsloo, all epochs, with loo"] = float(spearman(truth.sum(0), loo))
    for name, estimator in ESTIMATORS.items():
        began = time.perf_counter()
        mine = torch.from_numpy(scores(run, estimator))
        found["seconds"][name] = time.perf_counter() - began
        found[name] = {
            "epochs": spearman(mine, truth).tolist(),
            "all epochs": float(spearman(mine.sum(0), truth.sum(0))),
            "all epochs, with loo": float(spearman(mine.sum(0), loo)),
        }
    print(
        json.dumps({k: v if k not in ESTIMATORS else v["epochs"][-1] for k, v in found.items()}), flush=True
    )
    return found


def scores(run: ik.Trajectory, estimator: ik.Estimator):
    """[epoch, train]: the effect at the end of dropping an example in one epoch."""
    return ik.estimate(run, "test-loss", estimator, "each-epoch", "occurrence").influence.values[0]


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = {
        "command": "python benchmarks/dvemb.py " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "seeds": args.seeds,
        "settings": {},
    }
    for name in args.settings:
        seeds = [one(SETTINGS[name], seed) for seed in range(args.seeds)]
        report["settings"][name] = {
            "accuracy": statistics.mean(s["accuracy"] for s in seeds),
            "epochs": seeds[0]["epochs"],
            "steps": seeds[0]["steps"],
            "estimators": summary(seeds),
            "tsloo, all epochs, with loo": statistics.mean(s["tsloo, all epochs, with loo"] for s in seeds),
            "seeds": seeds,
        }
    if set(args.settings) == set(SETTINGS):
        (RESULTS / "dvemb.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
