"""The tables about other packages on the same task; docs/tables.py writes them."""

from collections.abc import Callable
from pathlib import Path

from tables_words import cells_row, load_result, source

METRICS = ("pearson", "spearman", "kendall", "jaccard")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _mean(row: dict) -> float:
    return sum(row[m] for m in METRICS) / 4


def _ours(name: str) -> bool:
    return name.startswith("influencekit")


def _best(rows: dict, ours: bool) -> str:
    """The name with the highest mean of the four metrics, of those that worked on every seed."""
    able = {n: r for n, r in rows.items() if _ours(n) == ours and r["worked"] == r["of"] and not r["once"]}
    able.pop("influencekit loo", None)  # the truth itself
    return max(able, key=lambda n: (round(_mean(able[n]), 3), -able[n]["seconds"]))


def table(kind: str) -> Callable[[Path], str]:
    def written(page: Path) -> str:
        report = load_result("peers")
        found = report["models"][kind]
        heads = [
            "method",
            "settings",
            "Pearson",
            "Spearman",
            "Kendall",
            "Jaccard",
            "import",
            "seconds",
            "again",
            "MB",
        ]
        lines = [
            f"{found['parameters']} parameters, test accuracy {100 * found['accuracy']:.1f} %, "
            f"{found['seeds']} seeds, compared on {found['compared']} of 256 examples. "
            f"{source(page, 'peers', report)}.",
            "",
            cells_row(heads),
            cells_row(["---"] * len(heads)),
        ]
        rows = found["methods"]
        for name in sorted(rows, key=lambda n: -_mean(rows[n]) if rows[n]["worked"] else 9):
            row = rows[name]
            shown = f"**{name}**" if _ours(name) else name
            if not row["worked"]:
                lines.append(cells_row([shown, f"{row['settings']}: `{row['failed'][0]}`", *[""] * 8]))
                continue
            cells = [_number(row[m], ".3f") for m in METRICS]
            cells += [_number(row[k], ".2f") for k in ("import_seconds", "seconds", "seconds_again")]
            part = "" if row["worked"] == row["of"] else f" ({row['worked']} of {row['of']} seeds)"
            lines.append(cells_row([shown, row["settings"] + part, *cells, _number(row["memory_mb"], ".0f")]))
        return "\n".join(lines)

    return written


def verdict(page: Path) -> str:
    """Best of ours and of the peers on each model, and what the better agreement costs."""
    report = load_result("peers")
    heads = ["model", "", "method", "mean of the four metrics", "import", "seconds", "again", "MB"]
    lines = [cells_row(heads), cells_row(["---"] * len(heads))]
    for kind, found in report["models"].items():
        rows = found["methods"]
        for ours in (True, False):
            name = _best(rows, ours)
            row = rows[name]
            cells = [kind if ours else "", "ours" if ours else "best peer", name, f"{_mean(row):.3f}"]
            cells += [_number(row[k], ".2f") for k in ("import_seconds", "seconds", "seconds_again")]
            lines.append(cells_row([*cells, _number(row["memory_mb"], ".0f")]))
    return "\n".join(lines)


TABLES: dict[str, Callable[[Path], str]] = {
    "peers-verdict": verdict,
    "peers-lr": table("lr"),
    "peers-dnn": table("dnn"),
    "peers-cnn": table("cnn"),
}
