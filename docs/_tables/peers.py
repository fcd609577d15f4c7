"""docs/results/peers.md: other packages on the same task."""

from collections.abc import Callable

from _tables.page import Page, Report, Section, Table, percent

_METRICS = ("pearson", "spearman", "kendall", "jaccard")
_TIMES = ("import_seconds", "seconds", "seconds_again")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _costs(row: Report) -> list[str]:
    return [*(_number(row[k], ".2f") for k in _TIMES), _number(row["memory_mb"], ".0f")]


def _mean(row: Report) -> float:
    return sum(row[m] for m in _METRICS) / 4


def _ours(name: str) -> bool:
    return name.startswith("influencekit")


def _best(rows: Report, ours: bool) -> str:
    """The name with the highest mean of the four metrics, of those that worked on every seed."""
    able = {n: r for n, r in rows.items() if _ours(n) == ours and r["worked"] == r["of"] and not r["once"]}
    able.pop("influencekit loo", None)  # the truth itself
    return max(able, key=lambda n: (round(_mean(able[n]), 3), -able[n]["seconds"]))


def _verdict(report: Report) -> Table:
    rows = []
    for kind, found in report["models"].items():
        for ours in (True, False):
            name = _best(found["methods"], ours)
            row = found["methods"][name]
            accuracy = percent(found["accuracy"])
            cells = [kind, accuracy, "ours" if ours else "best peer", name, f"{_mean(row):.3f}"]
            rows.append([*cells, *_costs(row)])
    heads = ["model", "test accuracy", "", "method", "mean of the four metrics"]
    return Table([*heads, "import", "seconds", "again", "MB"], rows)


def _methods(kind: str) -> Callable[[Report], Table]:
    def table(report: Report) -> Table:
        found = report["models"][kind]["methods"]
        rows = []
        for name in sorted(found, key=lambda n: -_mean(found[n]) if found[n]["worked"] else 9):
            row = found[name]
            shown = f"**{name}**" if _ours(name) else name
            if row["worked"]:
                part = "" if row["worked"] == row["of"] else f" ({row['worked']} of {row['of']} seeds)"
                cells = [row["settings"] + part, *(_number(row[m], ".3f") for m in _METRICS), *_costs(row)]
            else:
                cells = [f"{row['settings']}: `{row['failed'][0]}`", *[""] * 8]
            rows.append([shown, *cells])
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
        ]
        return Table([*heads, "MB"], rows)

    return table


def _model(kind: str) -> Callable[[Report], str]:
    def words(report: Report) -> str:
        found = report["models"][kind]
        return (
            f"{found['parameters']} parameters, test accuracy {percent(found['accuracy'])}, "
            f"{found['seeds']} seeds, compared on {found['compared']} of 256 examples."
        )

    return words


PAGE = Page(
    "Peers",
    "dattri, kronfluence, pyDVL, captum and traker on one task, every package through its own public "
    "functions: MNIST 1 against 7, 256 training examples, setting `trained`, plain SGD, float32, the mean "
    "test loss; the truth is leave-one-out. Seconds are CPU seconds on one thread, because the machine "
    "was shared: from the trained model (or the recorded run) to the scores of all examples. *Again* is a "
    "second call in the same process, *import* what imports took before the first, *MB* what the process "
    "used beyond libraries and data. [Measurements](../dev/measurements.md#peers) says how each package "
    "was treated.",
    {
        "peers-verdict": Section(
            "Who wins",
            ("peers",),
            "We aimed for best agreement at no extra time. We reached the first, not the second: dattri's "
            "conjugate gradients, with the damping that we gave them, are faster on every model, at the "
            "agreement of an influence function. The best peer is the one with the highest mean of the "
            "four metrics over all seeds.",
            _verdict,
        ),
        "peers-lr": Section("Logistic regression", ("peers",), _model("lr"), _methods("lr")),
        "peers-dnn": Section("Two hidden layers of 8", ("peers",), _model("dnn"), _methods("dnn")),
        "peers-cnn": Section("Convolutions", ("peers",), _model("cnn"), _methods("cnn")),
    },
)
