"""How fast is everything, relative to a plain PyTorch loop over the same steps?

The plain loop is what a user would write: model(x), loss, backward, optimizer.step. Tracing (once per
workload and shape) is stated by itself. Each figure is the median of several rounds in which everything is
timed in turn.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch

import influencekit as ik
from benchmarks.shared.results import each
from benchmarks.shared.timing import side_by_side, timed
from benchmarks.shared.training import train_plainly

TAKES = "3 min"
CASES = {  # and what the project asks of itself
    "lr": {"dit sweep": 1.5, "each epoch to dit sweep": 3.0, "loo": 1 / 8},
    "dnn": {"dit sweep": 1.5, "each epoch to dit sweep": 3.0, "loo": 1 / 8},
    "cnn": {"dit sweep": 3.0, "recording full": 1.2, "loo": 1.0},
}
QUICK = {"rounds": 1, "cases": ["lr"]}


def measure(kind: str, rounds: int, device: str) -> dict:
    workload = ik.make("workload", f"mnist-1v7-{kind}", setting="trained", epochs=21).to(device)
    left_out = 4 if kind == "cnn" else None  # a loop costs the same for every example
    loo = ik.make("estimator", "loo", examples=left_out)
    run, first_recording = timed(lambda: ik.record(workload))
    with TemporaryDirectory() as folder:
        stores = (Path(folder) / f"{k}.zarr" for k in range(rounds))
        jobs = {
            "plain": lambda: train_plainly(workload),
            "recording full": lambda: ik.record(workload, "full", next(stores), step=run.step),
            "dit sweep": lambda: ik.estimate(run, "test-loss", "dit", "full"),
            "each epoch": lambda: ik.estimate(run, "test-loss", "dit", "each-epoch"),
            "loo": lambda: ik.estimate(run, "test-loss", loo, "full"),
        }
        sweeps = ("dit sweep", "each epoch", "loo")
        first = {job: timed(jobs[job])[1] for job in sweeps}
        times = side_by_side(jobs, rounds)
    ratios = {job: times.ratio(job, "plain") for job in jobs if job != "plain"}
    ratios["loo"] /= left_out or workload.n_train  # to as many plain trainings as it replaces
    return {
        "steps": workload.plan.steps,
        "parameters": workload.n_params,
        "plain_ms_a_step": 1e3 * times.median("plain") / workload.plan.steps,
        "ratio_to_plain": ratios,
        "limit": CASES[kind],
        "each_epoch_to_dit_sweep": times.ratio("each epoch", "dit sweep"),
        "loo_speed_up": 1 / ratios["loo"],
        "loo_examples": left_out or workload.n_train,
        "tracing_seconds": {
            "recording": first_recording - times.median("recording full"),
            **{job: first[job] - times.median(job) for job in sweeps},
        },
    }


@click.option("--rounds", default=7)
@click.option("--threads", default=2)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
def answer(rounds: int, threads: int, device: str, cases: list[str]) -> dict:
    models = each(cases, lambda kind: measure(kind, rounds, device))
    file = "speed.json" if device == "cpu" else "speed-gpu.json"
    return {"file": file, "threads": threads, "device": device, "models": models}
