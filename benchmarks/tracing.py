"""What does tracing and splitting the step's derivative gain, in a backward sweep?

Three ways to the same curvature product and gradient products of all examples of a batch, beside a traced
training step: by `torch.func` as it stands; traced to kernels once; traced and cut, so that all that does
not depend on the adjoint is computed for many steps at once. The sweep takes the last, and for convolutions
on a CPU the one before. Medians of several rounds, each timed in turn.
"""

import click
import torch
from torch import Tensor

import influencekit as ik
from benchmarks.shared.results import each, machine
from benchmarks.shared.timing import side_by_side
from influencekit._training.batch import select, tensors_of
from influencekit._training.forward_curvature import FORWARD
from influencekit._training.kernels.tracing import split, trace
from influencekit._training.losses import Training
from influencekit._training.step import Step

TAKES = "1 min"
CASES = ("mnist-1v7-lr", "mnist-1v7-dnn", "mnist-1v7-cnn")
QUICK = {"rounds": 1, "cases": ["mnist-1v7-lr"]}


def measure(name: str, rounds: int) -> dict[str, float]:
    workload = ik.make("workload", name, setting="trained", epochs=2 if name.endswith("cnn") else 21)
    step = Step(workload)
    states = [step.start()]
    for _ in range(step.plan.steps - 1):
        states.append(step.advance(states[-1])[0])
    c = torch.randn(workload.n_params, generator=torch.Generator().manual_seed(0))
    product, losses = FORWARD["hessian"], Training.of(workload)

    def inputs(t: int | slice) -> list[Tensor]:
        return [*tensors_of(select(workload.train, step.rows(t))), step.coefficients(t)]

    def derivative(theta: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        return product(losses, theta, rest[:-2], rest[-2], rest[-1])[:2]

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
    with torch.no_grad():
        times = side_by_side(jobs, rounds)
    return {job: 1e3 * times.median(job) / len(states) for job in jobs}


@click.option("--rounds", default=9)
def answer(rounds: int, cases: list[str]) -> dict:
    return {
        "machine": f"{machine()}, one thread",
        "milliseconds_a_step": each(cases, lambda name: measure(name, rounds)),
    }
