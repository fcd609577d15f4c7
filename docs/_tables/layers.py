"""docs/results/layers.md: every layer and loss of torch.nn."""

from _tables.page import Page, Report, Section, Table, percent


def _counts(report: Report) -> Table:
    found, total = report["counts"], len(report["rows"])
    statuses = ("right", "refused", "wrong", "raw error", "killed")
    cells = [f"{found.get(s, 0):,} ({percent(found.get(s, 0) / total)})" for s in statuses]
    return Table(["right", "refused in one line", "wrong", "raw error", "killed the interpreter"], [cells])


def _refused(report: Report) -> Table:
    lines = []
    for name, rows in _by_row(report).items():
        some = [row for row in rows if row["status"] == "refused"]
        if some:
            said = some[0]["message"].replace("|", "\\|")
            lines.append([name, _where(some, rows), report["why"].get(name, ""), said])
    return Table(["row", "refused", "why", "the error"], lines)


def _every(report: Report) -> Table:
    lines = []
    for name, rows in _by_row(report).items():
        cells = [_status([row for row in rows if row["by"] == by]) for by in ("record", "tape")]
        for dtype in ("float32", "float64"):
            errors = [row["error"] for row in rows if row["dtype"] == dtype and row["error"] is not None]
            cells.append(f"{max(errors):.0e}" if errors else "")
        lines.append([report["kinds"][name], name, *cells])
    return Table(["kind", "row", "`record`", "tape", "largest error, float32", "float64"], lines)


def _by_row(report: Report) -> dict[str, list[Report]]:
    found: dict[str, list[Report]] = {name: [] for name in report["kinds"]}
    for row in report["rows"]:
        found[row["name"]].append(row)
    return found


def _where(some: list[Report], rows: list[Report]) -> str:
    """Which of a row's variants: `record`, `record: dit float32`, `everywhere`, ..."""
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


def _status(rows: list[Report]) -> str:
    """What the variants of one row have come to, in a word if they agree."""
    statuses = {row["status"] for row in rows}
    if len(statuses) == 1:
        return statuses.pop()
    by_estimator = {e: {row["status"] for row in rows if row["estimator"] == e} for e in ("dit", "loo")}
    return "; ".join(f"`{e}` {' or '.join(sorted(found))}" for e, found in by_estimator.items())


PAGE = Page(
    "Layers and losses",
    "Each row is a tiny model that uses one layer, loss or operator, trained by SGD with momentum. Its "
    "scores are compared with plain PyTorch; [Layers](../layers.md) says how, and what to do about a "
    "refusal.",
    {
        "torch-nn-counts": Section(
            "Counts",
            ("torch_nn",),
            lambda report: (
                f"{len(report['kinds'])} rows, each in float32 and float64, by `record` and by a tape, with "
                f"`dit` and with `loo`: {len(report['rows']):,} scores."
            ),
            _counts,
        ),
        "torch-nn-refused": Section(
            "What is refused",
            ("torch_nn",),
            "A refusal is one line, before a wrong number comes out.",
            _refused,
        ),
        "torch-nn": Section(
            "All rows",
            ("torch_nn",),
            "Errors are relative to the largest score of the row. Dropout is in eval mode by `record`, in "
            "training mode by the tape. Left out are layers that need several devices, and the lazy ones, "
            "which are their plain layers after a first forward pass.",
            _every,
        ),
    },
)
