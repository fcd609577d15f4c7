"""What are the paper's tables on this machine? `influencekit reproduce`, with many seeds.

A second call continues the first: all runs are kept in the folder --work.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import click

from benchmarks.shared.results import RESULTS as FOLDER

TAKES = "hours"
RESULTS = (
    "reproduce-table1.json", "reproduce-table2.json", "reproduce-table3.json", "reproduce-table4.json",
    "reproduce-table5.json", "reproduce-seeds.json", "reproduce-windows.json",
)  # fmt: skip
CASES = ("table1", "table2", "table3", "table4", "table5", "seeds", "windows")


def reproduce(*words: object) -> None:
    command = [sys.executable, "-m", "influencekit.cli", "reproduce", *map(str, words)]
    subprocess.run(command, check=True)


@click.option("--seeds", default=16)
@click.option("--cnn-seeds", type=int, help="Of the CNN. Default: as many.")
@click.option("--workers", default=2)
@click.option("--work", type=click.Path(path_type=Path), default="reproduction", help="What is done already.")
def answer(seeds: int, cnn_seeds: int | None, workers: int, work: Path, cases: list[str]) -> None:
    some = ["--cnn-seeds", cnn_seeds] if cnn_seeds else []
    for name in cases:
        reproduce(name, "--seeds", seeds, *some, "--out", work, "--workers", workers)
        shutil.copy(work / f"{name}.json", FOLDER / f"reproduce-{name}.json")
