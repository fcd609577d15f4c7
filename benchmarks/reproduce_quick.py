"""How long does a first look at the paper's tables take? `reproduce all --quick`, from nothing."""

import json
import tempfile
from pathlib import Path

import click

from benchmarks.reproduce import reproduce
from benchmarks.shared.timing import timed

TAKES = "3 min"
RESULTS = ("reproduce-quick.json",)


@click.option("--workers", default=2)
def answer(workers: int) -> dict:
    with tempfile.TemporaryDirectory() as out:
        words = ("all", "--quick", "--workers", workers)
        _, spent = timed(lambda: reproduce(*words, "--out", out))
        cells = [json.loads(path.read_text()) for path in Path(out).rglob("cells/*/*.json")]
    return {
        "command": f"influencekit reproduce {' '.join(map(str, words))}",
        "wall_seconds": round(spent, 1),
        "cells": len(cells),
        "cell_seconds": round(sum(cell["seconds"] for cell in cells), 1),
    }
