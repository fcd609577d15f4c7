"""What does a backward sweep cost beside the training that it goes through?

A network of two layers (50-64-2) on 100,000 examples in batches of 256, by plain SGD and by Adam: one sweep
of `dit` over a recorded epoch, relative to the same steps of training with nothing recorded. Processor time,
one thread, each round in turn.
"""

import click
import torch
from torch import nn

import influencekit as ik
from benchmarks.shared.results import each, machine
from benchmarks.shared.timing import side_by_side

TAKES = "1 min"
CASES = {"SGD": ik.SGD(lr=0.1), "Adam": ik.Adam(lr=1e-3)}
QUICK = {"rounds": 1, "cases": ["SGD"]}


def measure(name: str, rounds: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100_000, 50, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(50, 64), nn.ReLU(), nn.Linear(64, 2))
    workload = ik.Workload(
        model=model, loss=nn.CrossEntropyLoss(reduction="none"), train=(x, y), test=(x[:1000], y[:1000]),
        optimizer=CASES[name], epochs=1, batch_size=256,
    )  # fmt: skip
    run, query, dit = ik.record(workload, "full"), ik.make("query", "test-loss"), ik.make("estimator", "dit")

    def train() -> None:
        state = run.step.start()
        for _ in range(run.steps):
            state = run.step.advance(state)[0]

    jobs = {"training": train, "sweep": lambda: dit.scores(run, query, [ik.Window(0, run.steps)])}
    side_by_side(jobs, 1)  # which traces
    times = side_by_side(jobs, rounds)
    return {
        "steps": run.steps,
        "training_ms_a_step": 1e3 * sorted(times.cpu["training"])[rounds // 2] / run.steps,
        "sweep_to_training": times.ratio("sweep", "training", "cpu"),
        "fastest_to_fastest": times.ratio_of_fastest("sweep", "training", "cpu"),
    }


@click.option("--rounds", default=21)
def answer(rounds: int, cases: list[str]) -> dict:
    return {
        "machine": f"{machine()}, one thread",
        "limit": {"SGD": 1.7, "Adam": 1.8},
        "cases": each(cases, lambda name: measure(name, rounds)),
    }
