"""Every layer and loss of torch.nn: right, refused, or something worse?

    python benchmarks/torch_nn.py               # some minutes on one core; writes results/torch_nn.json
    python benchmarks/torch_nn.py LSTM losses   # the rows of these beginnings or kinds; writes nothing

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
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))  # tests is no package

from helpers_torch_nn_run import DTYPES, ESTIMATORS, RUNS, Outcome, as_expected, outcomes  # noqa: E402
from helpers_torch_nn_table import TABLE  # noqa: E402
from machine import machine  # noqa: E402

RESULTS = HERE / "results" / "torch_nn.json"


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
            command = [sys.executable, __file__, "--work"]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
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


if __name__ == "__main__":
    if sys.argv[1:] == ["--work"]:
        work()
        raise SystemExit
    asked = tuple(sys.argv[1:])
    chosen = [n for n, row in TABLE.items() if not asked or row.kind in asked or n.startswith(asked)]
    worker, rows, begun = Worker(), [], time.perf_counter()
    for name in chosen:
        for dtype in DTYPES:
            for by in RUNS:
                rows += worker.run((name, dtype, by))
        print("\n".join(told(rows[-8:])), flush=True)
    worker.close()
    counts = Counter(row["status"] for row in rows)
    print(dict(counts))
    if len(chosen) == len(TABLE):
        report = {
            "command": "python benchmarks/torch_nn.py",
            "machine": machine(),
            "seconds": round(time.perf_counter() - begun),
            "counts": counts,
            "kinds": {name: row.kind for name, row in TABLE.items()},
            "why": {name: row.why for name, row in TABLE.items() if row.why},
        }
        text = ",\n ".join(json.dumps(row) for row in rows)  # one line a score, or it would be 20,000
        about = json.dumps(report, indent=1).removesuffix("\n}")
        RESULTS.write_text(f'{about},\n "rows": [\n {text}\n ]\n}}\n', encoding="utf-8")
    odd = [row for row in rows if not as_expected(TABLE[row["name"]], Outcome(**row))]
    print(*(f"unexpected: {' '.join(list(row.values())[:5])}" for row in odd), sep="\n")
    raise SystemExit(bool(odd))
