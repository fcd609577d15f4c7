"""The paper's tables on this machine: `influencekit reproduce`, its JSON in results/reproduce-TABLE.json.

    python benchmarks/reproduce.py all seeds windows    # 16 seeds; the CNN with --cnn-seeds N
    python benchmarks/reproduce.py quick         # how long `reproduce all --quick` takes, from nothing

A second call continues the first: all runs are kept in the folder --out.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

RESULTS = Path(__file__).parent / "results"


def command(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "influencekit.cli", "reproduce", *words], check=True)


def quick(workers: int) -> None:
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        command("all", "--quick", "--out", out, "--workers", str(workers))
        seconds = time.perf_counter() - began
        cells = [json.loads(path.read_text()) for path in Path(out).rglob("cells/*/*.json")]
    report = {
        "command": f"influencekit reproduce all --quick --workers {workers}",
        "machine": machine(),
        "wall_seconds": round(seconds, 1),
        "cells": len(cells),
        "cell_seconds": round(sum(cell["seconds"] for cell in cells), 1),
    }
    (RESULTS / "reproduce-quick.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", help="tables of influencekit reproduce, or quick")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--cnn-seeds", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", default="reproduction")
    options = parser.parse_args()
    some = ["--cnn-seeds", str(options.cnn_seeds)] if options.cnn_seeds else []
    for table in options.tables:
        if table == "quick":
            quick(options.workers)
            continue
        command(
            table,
            "--seeds",
            str(options.seeds),
            *some,
            "--out",
            options.out,
            "--workers",
            str(options.workers),
        )
        for name in [f"table{k}" for k in range(1, 6)] if table == "all" else [table]:
            shutil.copy(Path(options.out) / f"{name}.json", RESULTS / f"reproduce-{name}.json")


if __name__ == "__main__":
    main()
