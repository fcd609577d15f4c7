"""One problem of benchmarks/peers.py, solved exactly: a trained model, its trajectory, exact leave-one-out.

    python benchmarks/peers_case.py lr 0 --out CASE.npz [--examples 64]

Run by benchmarks/peers.py, in a process of its own. Everything a method may need is in one file of arrays, so
that the methods of other packages are given exactly the model that ours are given.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

import influencekit as ik
from influencekit.testing import plain_run

__all__ = ["problem"]


def problem(kind: str, seed: int) -> ik.Workload:
    """MNIST 1 against 7 in the setting `trained`: lr, dnn or cnn."""
    return ik.make("workload", f"mnist-1v7-{kind}", setting="trained", seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", choices=["lr", "dnn", "cnn"])
    parser.add_argument("seed", type=int)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--examples", type=int, help="leave out only so many, drawn with seed 0")
    options = parser.parse_args()
    torch.set_num_threads(1)
    workload = problem(options.kind, options.seed)
    began = time.perf_counter()
    plain_run(workload)
    plain = time.perf_counter() - began
    began = time.perf_counter()
    run = ik.record(workload)
    recorded = time.perf_counter() - began
    exact = ik.make("estimator", "loo", examples=options.examples)
    began = time.perf_counter()
    truth = ik.estimate(run, "test-loss", exact).influence.values.ravel()
    seconds = time.perf_counter() - began
    epoch = run.plan.epoch.tolist()
    ends = [t + 1 for t in range(run.steps) if t + 1 == run.steps or epoch[t + 1] != epoch[t]]
    states = torch.stack([run.state(t).theta for t in range(run.steps + 1)])
    (x, y), (vx, vy) = workload.train, workload.test
    np.savez(
        options.out,
        kind=options.kind, seed=options.seed, l2=workload.l2, accuracy=run.attrs["accuracy"],
        x_train=x, y_train=y, x_test=vx, y_test=vy, order=run.plan.indices, lr=run.plan.lr[:, 0],
        epoch=epoch, ends=ends, states=states,
        truth=truth, seconds_truth=seconds, seconds_plain=plain, seconds_recorded=recorded,
    )  # fmt: skip


if __name__ == "__main__":
    main()
