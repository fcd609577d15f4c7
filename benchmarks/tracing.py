"""What tracing and splitting the step's derivative gain: milliseconds per step of the backward sweep.

    python benchmarks/tracing.py          # writes results/tracing.json and .md

Three ways to the same curvature product and shares of all examples of a batch, beside a traced training step:
by `torch.func` as it stands; traced to kernels once; traced and cut, so that all that does not depend on the
adjoint is computed for many steps at once. The sweep takes the last, and for convolutions on a CPU the one
before. Medians of several rounds, each timed in turn.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import machine

import influencekit as ik
from influencekit.training.batch import tensors_of
from influencekit.training.curvature import FORWARD
from influencekit.training.kernels.tracing import split, trace
from influencekit.training.step import Step

RESULTS = Path(__file__).parent / "results"


def milliseconds(work: Callable[[], object], steps: int) -> float:
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began) / steps


def measure(name: str, rounds: int) -> dict[str, float | int]:
    workload = ik.make("workload", name, setting="trained", epochs=2 if name.endswith("cnn") else 21)
    step = Step(workload)
    state = step.start()
    states = [state]
    for _ in range(step.plan.steps - 1):
        states.append(state := step.advance(state)[0])
    c = torch.randn(workload.n_params, generator=torch.Generator().manual_seed(0))
    product, losses = FORWARD["hessian"], step.training({})

    def inputs(t: int | slice) -> list[torch.Tensor]:
        return [*tensors_of(step.batch(t)), step.coefficients(t)]

    def derivative(theta: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return product(losses, theta, rest[:-2], rest[-2], rest[-1])

    traced = trace(derivative, workload.theta0, *inputs(0), c)
    static, later = split(traced, [2 + len(tensors_of(workload.train))])

    def ahead() -> None:
        shared = torch.vmap(static)(torch.stack([s.theta for s in states]), *inputs(slice(0, len(states))))
        for values in zip(*[x.unbind(0) for x in shared], strict=True):
            later(c, *values)

    jobs = {
        "plain training step, traced": lambda: [step.advance(s) for s in states],
        "torch.func": lambda: [derivative(s.theta, *inputs(s.step), c) for s in states],
        "traced": lambda: [traced(s.theta, *inputs(s.step), c) for s in states],
        "traced and split": ahead,
    }
    times: dict[str, list[float]] = {job: [] for job in jobs}
    with torch.no_grad():
        for _ in range(rounds):
            for job, work in jobs.items():
                times[job].append(milliseconds(work, len(states)))
    return {job: statistics.median(t) for job, t in times.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models = {
        name: measure(name, arguments.rounds) for name in ("mnist-1v7-lr", "mnist-1v7-dnn", "mnist-1v7-cnn")
    }
    report = {
        "command": " ".join(["python benchmarks/tracing.py", *sys.argv[1:]]),
        "machine": f"{machine()}, one thread",
        "milliseconds_a_step": models,
    }
    (RESULTS / "tracing.json").write_text(json.dumps(report, indent=1) + "\n")
    lines = [f"`{report['command']}`, {report['machine']}; milliseconds a step.", ""]
    jobs = list(next(iter(models.values())))
    lines += [f"| workload | {' | '.join(jobs)} |", "|---" * (len(jobs) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(f'{found[j]:.2f}' for j in jobs)} |" for name, found in models.items()]
    (RESULTS / "tracing.md").write_text(text := "\n".join(lines) + "\n")
    print(text)
