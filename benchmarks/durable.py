"""What does it cost that a commit outlives a loss of power?

The time of a commit with `durable` and without, of 200 steps in batches of 64 and one state of a model with
so many parameters and as much momentum, on the disk that holds the temporary folder. A recording commits in
a thread of its own, after 5 seconds or 64 MiB.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import click
import numpy as np

from benchmarks.shared.results import machine
from influencekit._trajectory.writing import COLUMNS, Writer, writer

TAKES = "1 min"
QUICK = {"count": 2}
SIZES = (1_000, 1_000_000, 5_000_000)
STEPS, BATCH = 200, 64


def commits(path: Path, durable: bool, size: int, count: int) -> list[float]:
    """Seconds of every commit but the first."""
    writing = Writer.create(
        path, size=size, dtype="float32", slots=("momentum_buffer",), columns=COLUMNS,
        fixed={"train": (("train",), np.arange(1000))}, durable=durable,
    )  # fmt: skip
    draw, seconds = np.random.default_rng(0), []
    for number in range(count + 1):
        theta = draw.standard_normal(size).astype("f4")
        writing.state(number * STEPS, {"theta": theta, "momentum_buffer": theta})
        for _ in range(STEPS):
            row = {"batch": draw.integers(0, 1000, BATCH), "loss": draw.standard_normal(BATCH)}
            row |= {"coefficient": np.full(BATCH, 1 / BATCH), "part": np.zeros(BATCH, int)}
            writing.step({**row, "epoch": number, "lr": [0.1]})
        began = time.perf_counter()
        writing.flush()
        seconds.append(time.perf_counter() - began)
    writing.leave()
    return seconds[1:]


@click.option("--commits", "count", default=30, help="Of every kind and size.")
def answer(count: int) -> dict:
    writer.SECONDS, writer.BYTES = 1e9, 1 << 40  # only when it is asked for
    found = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            plain, durable = (
                1000 * median(commits(Path(folder, str(kind)), kind, size, count)) for kind in (False, True)
            )
        found[str(size)] = {"plain_ms": plain, "durable_ms": durable, "ratio": durable / plain}
    return {"machine": machine(), "parameters": found}
