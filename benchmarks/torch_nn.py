"""Is every layer and loss of torch.nn right, or refused in one line?

The rows and the right answers are those of tests/helpers_torch_nn*.py. They run in processes of their own,
so that what kills the interpreter is a line of the result as well: right, refused (in one line of ours),
wrong, raw error or killed. The last lines name what is not as the table expects; then the exit code is 1.
"""

import json
import subprocess
import sys
import time
import warnings
from collections import Counter

import click
import torch

from benchmarks.shared.results import ROOT

sys.path.insert(0, str(ROOT / "tests"))  # tests is no package

from helpers_torch_nn_run import DTYPES, ESTIMATORS, RUNS, Outcome, as_expected, outcomes  # noqa: E402
from helpers_torch_nn_table import TABLE  # noqa: E402

TAKES = "15 min"
QUICK = {"rows": ("GELU",)}


def work() -> None:
    """What a worker does: for every line (a variant) one line of outcomes."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        name, dtype, by = json.loads(line)
        found = [outcome._asdict() for outcome in outcomes(TABLE[name], dtype, by)]
        print("\n" + json.dumps(found), flush=True)


class Worker:
    """A process that runs variants, begun anew when one kills it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def run(self, variant: tuple[str, str, str]) -> list[dict]:
        if self.process is None:
            command = [sys.executable, "-c", "from benchmarks.torch_nn import work; work()"]
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=ROOT,
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(variant) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("[{"):
                return json.loads(line)
        code, self.process = self.process.wait(), None
        about = dict(zip(("name", "dtype", "by"), variant, strict=True))
        killed = {"status": "killed", "error": None, "message": f"the interpreter ended with code {code}"}
        return [{**about, "estimator": name, **killed} for name in ESTIMATORS]

    def close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


def told(rows: list[dict]) -> list[str]:
    """What there is to say of one row of the table, one line for each thing that is not right."""
    same: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        if row["status"] != "right":
            same.setdefault((row["status"], row["message"]), []).append(row)
    lines = []
    for (status, message), members in same.items():
        where = (
            "all"
            if len(members) == 8
            else ", ".join(f"{r['dtype']} {r['by']} {r['estimator']}" for r in members)
        )
        worst = max((r["error"] for r in members if r["error"] is not None), default=None)
        lines.append(f"{status}: {where}: {message or f'relative error {worst:.1e}'}")
    return [f"{rows[0]['name']}: {'right' if not lines else ''}", *(f"    {line}" for line in lines)]


@click.option("--rows", multiple=True, help="Rows of this beginning or kind alone; again for more.")
def answer(rows: tuple[str, ...]) -> dict:
    chosen = {n: row for n, row in TABLE.items() if not rows or row.kind in rows or n.startswith(rows)}
    worker, found, begun = Worker(), [], time.perf_counter()
    for name in chosen:
        for dtype in DTYPES:
            for by in RUNS:
                found += worker.run((name, dtype, by))
        print("\n".join(told(found[-8:])), flush=True)
    worker.close()
    return {
        "seconds": round(time.perf_counter() - begun),
        "counts": Counter(row["status"] for row in found),
        "kinds": {name: row.kind for name, row in chosen.items()},
        "why": {name: row.why for name, row in chosen.items() if row.why},
        "rows": found,
        "partial": bool(rows),
    }


def wrong(report: dict) -> list[str]:
    odd = [row for row in report["rows"] if not as_expected(TABLE[row["name"]], Outcome(**row))]
    return [f"unexpected: {' '.join(list(row.values())[:5])}" for row in odd]
