"""Why does first order fail on small ReLU networks? The same runs with a smooth activation.

MNIST 1 against 7, the two-layer network of 8 and 8 units, both settings; once with ReLU and once with
softplus(20 x) / 20, which differs from ReLU by at most .035. Everything else is the same. DIT against exact
retraining, mean test loss, whole run.
"""

from functools import partial

import click

import influencekit as ik
from benchmarks.shared.processes import at_once
from benchmarks.shared.results import spread
from benchmarks.shared.training import almost_relu, with_activation

TAKES = "2 min"
QUICK = {"seeds": 1, "processes": 1}
NAME = "mnist-1v7-dnn"
ACTIVATIONS = ("ReLU", "softplus")


def build(name: str, setting: str, activation: str, seed: int) -> ik.Workload:
    workload = ik.make("workload", name, setting=setting, seed=seed)
    return workload if activation == "ReLU" else with_activation(workload, almost_relu)


def one(job: tuple[str, str, int]) -> dict:
    setting, activation, seeds = job
    found = ik.compare(partial(build, NAME, setting, activation), ["dit"], seeds=range(seeds))
    dit = found.agreement.sel(estimator="dit").squeeze(("query", "window"))
    return {
        "setting": setting,
        "activation": activation,
        "accuracy": float(found.accuracy.mean()),
        **{m: spread(dit.sel(metric=m).values) for m in dit.metric.values.tolist()},
    }


@click.option("--seeds", default=16)
@click.option("--processes", default=2)
def answer(seeds: int, processes: int) -> dict:
    jobs = [(setting, kind, seeds) for setting in ("paper", "trained") for kind in ACTIVATIONS]
    return {"workload": NAME, "seeds": seeds, "rows": [*at_once(one, jobs, processes)]}
