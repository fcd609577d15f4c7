"""The tables about every layer and loss of torch.nn; docs/tables.py writes them."""

from collections.abc import Callable
from pathlib import Path

from tables_words import cells_row, load_result, source


def counts(page: Path) -> str:
    """How many variants are right, refused or worse."""
    report = load_result("torch_nn")
    rows, found = report["rows"], report["counts"]
    total = len(rows)
    lines = [
        f"{source(page, 'torch_nn', report)}. {len(report['kinds'])} rows, each in float32 and float64, by "
        f"`record` and by a tape, with `dit` and with `loo`: {total} scores.",
        "",
        cells_row(["right", "refused in one line", "wrong", "raw error", "killed the interpreter"]),
        cells_row(["---"] * 5),
    ]
    statuses = ("right", "refused", "wrong", "raw error", "killed")
    cells = [f"{found.get(s, 0):,} ({100 * found.get(s, 0) / total:.1f} %)" for s in statuses]
    return "\n".join([*lines, cells_row(cells)])


def refused(page: Path) -> str:
    """What is refused, where, why, and what the error says."""
    report = load_result("torch_nn")
    lines = [cells_row(["row", "refused", "why", "the error"]), cells_row(["---"] * 4)]
    for name, rows in _by_row(report).items():
        some = [row for row in rows if row["status"] == "refused"]
        if some:
            said = some[0]["message"].replace("|", "\\|")
            lines.append(cells_row([name, _where(some, rows), report["why"].get(name, ""), said]))
    return "\n".join(lines)


def every(page: Path) -> str:
    """One line a row."""
    report = load_result("torch_nn")
    heads = ["kind", "row", "`record`", "tape", "largest error, float32", "float64"]
    lines = [cells_row(heads), cells_row(["---"] * len(heads))]
    for name, rows in _by_row(report).items():
        cells = [_status([row for row in rows if row["by"] == by]) for by in ("record", "tape")]
        for dtype in ("float32", "float64"):
            errors = [row["error"] for row in rows if row["dtype"] == dtype and row["error"] is not None]
            cells.append(f"{max(errors):.0e}" if errors else "")
        lines.append(cells_row([report["kinds"][name], name, *cells]))
    return "\n".join(lines)


def _by_row(report: dict) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {name: [] for name in report["kinds"]}
    for row in report["rows"]:
        found[row["name"]].append(row)
    return found


def _where(some: list[dict], rows: list[dict]) -> str:
    """Which of a row's variants: `record`, `record dit`, `everywhere`, ..."""
    if len(some) == len(rows):
        return "everywhere"
    said = []
    for by in ("record", "tape"):
        of_by = [row for row in some if row["by"] == by]
        if len(of_by) == len([row for row in rows if row["by"] == by]):
            said.append(by)
        elif of_by:
            said.append(
                f"{by}: " + ", ".join(sorted({f"{row['estimator']} {row['dtype']}" for row in of_by}))
            )
    return "; ".join(said)


def _status(rows: list[dict]) -> str:
    """What the variants of one row have come to, in a word if they agree."""
    statuses = {row["status"] for row in rows}
    if len(statuses) == 1:
        return statuses.pop()
    by_estimator = {e: {row["status"] for row in rows if row["estimator"] == e} for e in ("dit", "loo")}
    return "; ".join(f"`{e}` {' or '.join(sorted(found))}" for e, found in by_estimator.items())


TABLES: dict[str, Callable[[Path], str]] = {
    "torch-nn": every,
    "torch-nn-counts": counts,
    "torch-nn-refused": refused,
}
