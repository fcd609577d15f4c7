"""Is DIT the derivative of the run? Against autodiff through it, and by the Taylor test.

Real data: 64 MNIST digits (1 against 7), a tanh network of two hidden layers of 8 units, 3 epochs in
batches of 16, float64, the query is the mean test loss. First the largest difference between DIT's scores
and the gradient with respect to example weights through the whole training loop, relative to the largest
score; then the slope of the remainder |effect(h) - h * score| when the weights of all examples are lowered
by h along three random directions (2 = the derivative is right, 1 = it is not), and the h below which it
stays 2. The steps h go from .1 down to where rounding begins, which the Taylor evaluation measures. Two fixed
steps do not do: Adam divides by sqrt(v) + eps, so a weight change that carries a gradient entry of size eps
over zero is no small one, and above h = .01 terms of higher order rule (one of them crosses zero there, and
between .01 and .001 the slope in one direction is 2.44).
"""

from dataclasses import replace

import torch
from torch import nn

import influencekit as ik
from benchmarks.shared.results import each
from influencekit.evaluation import TaylorSlope
from influencekit.queries import TestLoss
from influencekit.testing import unrolled_gradient

TAKES = "1 min"
CASES = {
    "SGD": ik.SGD(lr=0.05),
    "SGD, momentum .9": ik.SGD(lr=0.02, momentum=0.9),
    "SGD, Nesterov, weight decay": ik.SGD(lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.01),
    "SGD, clipped at norm .2": ik.SGD(lr=0.05, clip_norm=0.2),
    "Adam": ik.Adam(lr=0.002, eps=1e-4),
    "AdamW": ik.AdamW(lr=0.002, eps=1e-4),
}
QUICK = {"cases": ["SGD"]}
WINDOWS = [
    ik.Window(0, 12), ik.Window(4, 8), ik.Window(4, 8, "window"), ik.Window(4, 8, "occurrence"),
]  # fmt: skip


def problem(optimizer: ik.Optimizer) -> ik.Workload:
    workload = ik.make("workload", "mnist-1v7-dnn", n_train=64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hidden = [nn.Linear(784, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh()]
        model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(8, 1), nn.Flatten(0))
    small = replace(workload, model=model, optimizer=optimizer, epochs=3, batch_size=16)
    return small.to(dtype=torch.float64)


def measure(name: str) -> dict[str, float]:
    workload, query = problem(CASES[name]), TestLoss()
    run = ik.record(workload)
    scores = torch.from_numpy(ik.estimate(run, query, "dit", WINDOWS).influence.values)
    expected = unrolled_gradient(workload, query, WINDOWS)
    (left,) = ik.evaluate(run, TaylorSlope(), query, "dit", WINDOWS[:1]).values()
    return {
        "accuracy": float(run.attrs["accuracy"]),
        "relative_error": ((scores - expected).abs().max() / expected.abs().max()).item(),
        "taylor_slope": float(left.slope[0]),
        "slope_from": float(left.slope_from[0]),
        "slope_to": float(left.slope_to[0]),
        "smooth_below": float(left.smooth_below[0]),
    }


def answer(cases: list[str]) -> dict:
    return {"optimizers": each(cases, measure)}
