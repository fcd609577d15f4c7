"""Scores of tokens of a small language model: do they add up, does retraining agree, are they of use?

The model and optimizer of `language_model`, in float64, on fewer sequences and for fewer epochs, so that all
takes some minutes of one core. The loss is the mean over the tokens of a sequence, which it tells apart.

`sums`: how far the scores of the tokens of a sequence are from its own, in sum, relative to the largest
score. `loo`: scores beside exact retraining without single random tokens; `ceiling`: what the expected effect
would reach, from retraining the same tokens from a start that is moved by a thousandth. Both for the
optimizer's own eps of 1e-8 and for the `EPS` of a second run. `qld`: how much worse
the mean test loss is without the top tokens than without as many random ones, and the same of whole
sequences. `seconds`: CPU time of a sweep for sequences and for tokens.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import click
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import cross_entropy

import influencekit as ik
from benchmarks.language_model.case import MOVED, Size, problem
from influencekit._repeatability import attainable
from influencekit.evaluation import QLD
from influencekit.metrics import pearson, spearman

TAKES = "5 min"
BATCH = 64
FULL = Size(train=128, test=32, epochs=3)
EPS = 1e-3  # of the second run, whose steps grow with the gradient
SMALL = Size(train=64, test=8, length=8, width=16, heads=2, epochs=2)
QUICK = {"tokens": 4, "draws": 2, "size": SMALL}
WINDOWS = {
    "global, the whole run": lambda steps: ik.Window(0, steps),
    "global, the second half": lambda steps: ik.Window(steps // 2, steps),
    "window, the first half": lambda steps: ik.Window(0, steps // 2, "window"),
    "occurrence, a single step": lambda steps: ik.Window(steps // 2, steps // 2 + 1, "occurrence"),
}


def token_losses(logits: Tensor, targets: Tensor) -> ik.Parts:
    """The cross-entropy of every token, in nats; a sequence has their mean."""
    losses = cross_entropy(logits.mT, targets, reduction="none")
    return ik.Parts.mean(losses, torch.ones_like(losses))


def run(size: Size, moved: float = 0.0, eps: float = 1e-8) -> ik.Trajectory:
    """The recorded run, in float64."""
    work = problem(size, BATCH, moved=moved).to(dtype=torch.float64)
    return ik.record(replace(work, loss=token_losses, optimizer=replace(work.optimizer, eps=eps)))


def timed(make: Callable[[], xr.Dataset]) -> tuple[xr.Dataset, float]:
    """What it makes, and its CPU time in seconds."""
    began = time.process_time()
    return make(), time.process_time() - began


def sums(recorded: ik.Trajectory) -> tuple[dict[str, float], dict[str, float]]:
    """The gaps of each removal, and the seconds of the second sweep of each kind: the first one traces."""
    gaps = {}
    for words, window in WINDOWS.items():
        windows = [window(recorded.steps)]
        whole, of_examples = timed(lambda w=windows: ik.estimate(recorded, "test-loss", "dit", w))
        parts, of_parts = timed(lambda w=windows: ik.estimate(recorded, "test-loss", "dit", w, parts=True))
        gap = abs(parts.influence.sum("part") - whole.influence).max() / abs(whole.influence).max()
        gaps[words] = float(gap)
        print(words, gaps[words], of_examples, of_parts, flush=True)
        if words == "global, the second half":
            seconds = {"sequences": of_examples, "tokens": of_parts}
    return gaps, seconds


def beside_loo(recorded: ik.Trajectory, size: Size, tokens: int, eps: float = 1e-8) -> dict[str, Any]:
    """Agreement of scores with retraining without random tokens, and what it could be at most."""
    truth, seconds = timed(lambda: ik.estimate(recorded, "test-loss", f"loo:examples={tokens}", parts=True))
    print("loo", seconds, flush=True)
    moved = run(size, MOVED, eps)
    again = ik.estimate(moved, "test-loss", f"loo:examples={tokens}", parts=True)
    there = truth.influence.notnull().values
    rows = {"loo": truth, "again": again, "dit": ik.estimate(recorded, "test-loss", "dit", parts=True)}
    a, b, e = (torch.tensor(rows[k].influence.values[there]) for k in ("loo", "again", "dit"))
    figures = {}
    for name, metric in (("pearson", pearson), ("spearman", spearman)):
        once = metric(a, b)
        figures[name] = {
            "dit": float(metric(e, a)), "again": float(once), "ceiling": float(attainable(name, once, 1)),
        }  # fmt: skip
    return {
        "tokens": tokens, "agreement": figures, "seconds": seconds,
        "largest": {"dit": float(e.abs().max()), "loo": float(a.abs().max())},
    }  # fmt: skip


def left_out(recorded: ik.Trajectory, draws: int) -> dict[str, Any]:
    """QLD by token and by sequence."""
    evaluation = QLD(fraction=(0.1,), draws=draws, parts=True)
    found = ik.evaluate(recorded, {"": evaluation}, "test-loss", ["dit"])[""]
    figures = evaluation.figures(found)
    control = {unit: one["rise"][0] for unit, one in figures["control"].items()}
    return {
        "draws": draws, "k": figures["k"][0], "fraction": 0.1,
        "units": {
            unit: {
                **{k: row[k][0] for k in ("qld", "rise")}, "random": control[unit],
            }
            for unit in found.unit.values.tolist()
            for row in [figures["estimators"][f"dit, by {unit}"]]
        },
    }  # fmt: skip


@click.option("--tokens", default=24, help="How many random tokens are left out, one by one.")
@click.option("--draws", default=10, help="Random sets beside the top tokens.")
def answer(tokens: int, draws: int, size: Size = FULL) -> dict[str, Any]:
    recorded = run(size)
    gaps, seconds = sums(recorded)
    with torch.no_grad():
        work = recorded.workload
        losses = [float(work.losses(recorded.state(t).theta, work.test).mean()) for t in (0, recorded.steps)]
    found = {
        "size": asdict(size), "batch": BATCH, "steps": recorded.steps, "parameters": work.n_params,
        "moved": MOVED, "dtype": "float64", "test_loss": losses, "sums": gaps, "seconds": seconds,
        "loo": beside_loo(recorded, size, tokens),
        "eps": EPS, "loo with eps": beside_loo(run(size, eps=EPS), size, tokens, EPS),
    }  # fmt: skip
    print(found, flush=True)
    return {**found, "qld": left_out(recorded, draws)}
