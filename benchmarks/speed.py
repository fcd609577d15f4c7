"""Speed of everything as a ratio to a plain eager PyTorch loop over the same steps, side by side in one run.

    python benchmarks/speed.py            # writes results/speed.json and .md

The plain loop is what a user would write: model(x), loss, backward, optimizer.step. Tracing (once per
workload and shape) is stated by itself. Each figure is the median of several rounds in which everything is
timed in turn.
"""

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from machine import machine

import influencekit as ik
from influencekit.training.batch import select
from influencekit.verbs.record import record as record_run

RESULTS = Path(__file__).parent / "results"
LIMITS = {  # what the project asks of itself
    "lr": {"dit sweep": 1.5, "each epoch to dit sweep": 3.0, "loo": 1 / 8},
    "dnn": {"dit sweep": 1.5, "each epoch to dit sweep": 3.0, "loo": 1 / 8},
    "cnn": {"dit sweep": 3.0, "recording full": 1.2, "loo": 1.0},
}


def plain(workload: ik.Workload) -> None:
    """An ordinary training loop."""
    import copy

    model = copy.deepcopy(workload.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=workload.optimizer.lr)
    plan = workload.plan
    for t in range(plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.lrs(t)[0]
        x, y = select(workload.train, plan.batch(t))
        optimizer.zero_grad()
        loss = workload.loss(model(x), y).mean()
        if workload.l2:
            loss = loss + 0.5 * workload.l2 * sum((p * p).sum() for p in model.parameters())
        loss.backward()
        optimizer.step()


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(kind: str, rounds: int, device: str) -> dict:
    name = f"mnist-1v7-{kind}"
    workload = ik.make("workload", name, setting="trained", epochs=21).to(device)
    windows = "full"
    left_out = 4 if kind == "cnn" else None  # a loop costs the same for every example
    loo = ik.make("estimator", f"loo:examples={left_out}" if left_out else "loo")

    began = time.perf_counter()
    trajectory = ik.record(workload)
    first_record = time.perf_counter() - began
    first_sweep = seconds(lambda: ik.estimate(trajectory, "test-loss", "dit", windows))
    first_windows = seconds(lambda: ik.estimate(trajectory, "test-loss", "dit", "each-epoch"))
    first_loo = seconds(lambda: ik.estimate(trajectory, "test-loss", loo, windows))

    def record() -> None:
        with TemporaryDirectory() as folder:
            record_run(workload, "full", Path(folder) / "run.zarr", step=trajectory.step)

    jobs = {
        "plain": lambda: plain(workload),
        "recording full": record,
        "dit sweep": lambda: ik.estimate(trajectory, "test-loss", "dit", windows),
        "each epoch": lambda: ik.estimate(trajectory, "test-loss", "dit", "each-epoch"),
        "loo": lambda: ik.estimate(trajectory, "test-loss", loo, windows),
    }
    times = defaultdict(list)
    for _ in range(rounds):
        for job, work in jobs.items():
            times[job].append(seconds(work))
    # LOO against as many plain trainings as it replaces
    per = {"loo": left_out or workload.n_train}
    ratios = {
        job: statistics.median(
            t / (p * per.get(job, 1)) for t, p in zip(times[job], times["plain"], strict=True)
        )
        for job in jobs
        if job != "plain"
    }
    median = {job: statistics.median(t) for job, t in times.items()}
    return {
        "steps": workload.plan.steps,
        "parameters": workload.n_params,
        "plain_ms_a_step": 1e3 * median["plain"] / workload.plan.steps,
        "ratio_to_plain": ratios,
        "limit": LIMITS[kind],
        "each_epoch_to_dit_sweep": statistics.median(
            e / s for e, s in zip(times["each epoch"], times["dit sweep"], strict=True)
        ),
        "loo_speed_up": 1 / ratios["loo"],
        "loo_examples": per["loo"],
        "tracing_seconds": {
            "recording": first_record - median["recording full"],
            "dit sweep": first_sweep - median["dit sweep"],
            "each epoch": first_windows - median["each epoch"],
            "loo": first_loo - median["loo"],
        },
    }


def markdown(report: dict) -> str:
    lines = [
        f"`{report['command']}`, {report['machine']}, {report['threads']} threads. Ratio to a plain eager "
        "PyTorch loop over the same steps (LOO: to as many plain trainings as examples left out).",
        "",
        "| model | steps | recording `full` to disk | DIT, all examples | each of 21 epochs, to DIT | LOO | "
        "LOO speed-up | tracing, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, row in report["models"].items():
        ratio = row["ratio_to_plain"]
        once = sum(max(0.0, s) for s in row["tracing_seconds"].values())
        lines.append(
            f"| {kind} | {row['steps']} | {ratio['recording full']:.2f} | {ratio['dit sweep']:.2f} | "
            f"{row['each_epoch_to_dit_sweep']:.2f} | {ratio['loo']:.3f} | {row['loo_speed_up']:.1f}x | "
            f"{once:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", default="lr,dnn,cnn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = {
        "command": "python benchmarks/speed.py " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "threads": arguments.threads,
        "device": arguments.device,
        "models": {
            kind: measure(kind, arguments.rounds, arguments.device) for kind in arguments.models.split(",")
        },
    }
    path = RESULTS / ("speed.json" if arguments.device == "cpu" else "speed-gpu.json")
    path.write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".md").write_text(text := markdown(report))
    print(text)
