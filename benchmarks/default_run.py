"""What a new user waits for: `influencekit compare --estimators dit,if,loo` and `influencekit --help`.

    python benchmarks/default_run.py      # writes results/default_run.json and .md

Each command runs in a process of its own, start-up included, on 2 threads; the fastest of three.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from machine import machine

RESULTS = Path(__file__).parent / "results"
COMMANDS = {"help": ["--help"], "compare": ["compare", "--estimators", "dit,if,loo"]}
LIMITS = {"help": (0.5, None), "compare": (20.0, 1.5)}


def run(arguments: list[str]) -> tuple[float, float]:
    """Seconds, and the largest resident memory of any child so far in GB."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "influencekit.cli", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    spent = time.perf_counter() - began
    return spent, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


if __name__ == "__main__":
    rows = {}
    for name, arguments in COMMANDS.items():
        found = [run(arguments) for _ in range(3)]
        rows[name] = {
            "seconds": min(s for s, _ in found),
            "memory_gb": max(m for _, m in found),
            "limit_seconds": LIMITS[name][0],
            "limit_gb": LIMITS[name][1],
        }
    report = {"command": "python benchmarks/default_run.py", "machine": machine(), "runs": rows}
    lines = [
        f"`{report['command']}`, {report['machine']}.",
        "",
        "| command | seconds, start-up included | peak memory |",
        "|---|---|---|",
        *[
            f"| `influencekit {' '.join(COMMANDS[name])}` | {row['seconds']:.2f} | "
            f"{row['memory_gb']:.2f} GB |"
            for name, row in rows.items()
        ],
    ]
    (RESULTS / "default_run.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "default_run.md").write_text(text := "\n".join(lines) + "\n")
    print(text)
