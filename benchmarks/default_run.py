"""What does a new user wait for? `influencekit compare --estimators dit,if,loo` and `--help`.

Each command runs in a process of its own, start-up included, on 2 threads; the fastest of three, and the
most memory.
"""

import sys

from benchmarks.shared.processes import alone, command_cost
from benchmarks.shared.results import each

TAKES = "1 min"
CASES = {  # arguments, and the most seconds and GB that it may take
    "help": (["--help"], 0.5, None),
    "compare": (["compare", "--estimators", "dit,if,loo"], 20.0, 1.5),
}
QUICK = {"cases": ["help"]}


def measure(name: str) -> dict[str, float | None]:
    arguments, limit_seconds, limit_gb = CASES[name]
    command = [sys.executable, "-m", "influencekit.cli", *arguments]
    found = [alone(command_cost, command, 2) for _ in range(3)]
    return {
        "seconds": min(each["seconds"] for each in found),
        "memory_gb": max(each["gb"] for each in found),
        "limit_seconds": limit_seconds,
        "limit_gb": limit_gb,
    }


def answer(cases: list[str]) -> dict:
    return {"runs": each(cases, measure)}
