"""The tables about the figure of trust; docs/tables.py writes them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from tables_words import cells_row, load_result, source

FIGURES = {
    "retrain:16": ("`retrain`, 16 examples", "16"),
    "retrain:32": ("`retrain`, 32 examples", "32"),
    "smooth": ("`smooth`: cosine of the test losses' changes", "2"),
    "smooth, training losses": ("the same of the training losses'", "2"),
    "smooth, signs": ("signs of the test losses' changes, weighted", "2"),
    "smooth, parameters": ("cosine of the parameters' changes", "2"),
    "smooth, signs of parameters": ("signs of the parameters' changes, weighted (the paper's)", "2"),
}


def figures(page: Path) -> str:
    """What each figure is worth on the seeds that did not choose its limit, and with another optimizer."""
    report = load_result("trust")
    first = report["figures"]["smooth"]
    counts = [
        f"{each['low']} of {each['runs']}" for each in (first, first["trained_networks"], first["adamw"])
    ]
    heads = ["figure", "trainings", "time / `dit`", "limit", "rank correlation", "warning right", "missed"]
    heads += ["false alarms", "right, trained networks", "right, AdamW"]
    lines = [
        f"{source(page, 'trust', report)}. True Spearman below {report['low']}: {counts[0]} runs; of the "
        f"networks in the setting `trained` among them {counts[1]}; with AdamW {counts[2]}.",
        "",
        cells_row(heads),
        cells_row(["---"] * len(heads)),
    ]
    for name, (words, trainings) in FIGURES.items():
        found = report["figures"][name]
        time = found["median_time_relative_to_dit"]
        cells = [words, trainings, "" if time is None else f"{time:.1f}"]
        cells += [f"{found['limit']:.2f}", f"{found['rank_correlation']:.2f}"]
        cells += [f"{found['right']} of {found['runs']}", str(found["missed"]), str(found["false_alarms"])]
        others = (found["trained_networks"], found["adamw"])
        lines.append(cells_row([*cells, *(f"{other['right']} of {other['runs']}" for other in others)]))
    return "\n".join(lines)


def runs(page: Path) -> str:
    """Truth and both figures for every kind of run, over all its seeds."""
    report = load_result("trust")
    kinds: dict[tuple[str, ...], list[dict]] = {}
    for row in report["rows"]:
        kinds.setdefault(tuple(row["run"][:3]), []).append(row)
    lines = [
        cells_row(["workload", "setting", "", "test accuracy", "Spearman, truth", "`retrain`", "`smooth`"]),
        cells_row(["---"] * 7),
    ]
    for (name, setting, kind), rows in sorted(kinds.items()):
        columns = [[row["spearman"] for row in rows]]
        columns += [[row["figures"][figure] for row in rows] for figure in ("retrain:16", "smooth")]
        spread = [f"{np.mean(column):.2f} ± {np.std(column):.2f}" for column in columns]
        accuracy = f"{100 * np.mean([row['accuracy'] for row in rows]):.1f} %"
        lines.append(cells_row([name, setting, "" if name.endswith("-lr") else kind, accuracy, *spread]))
    return "\n".join(lines)


def advice(page: Path) -> str:
    """What the changes that a warning names do to accuracy and truth."""
    report = load_result("trust")
    names = list(dict.fromkeys(row["workload"] for row in report["advice"]))
    found = {(row["workload"], row["change"]): row for row in report["advice"]}
    changes = list(dict.fromkeys(row["change"] for row in report["advice"]))
    lines = [
        "Spearman of `dit` with retraining without 96 examples, four seeds, `trained` setting; test accuracy "
        "in brackets.",
        "",
        cells_row(["change", *names]),
        cells_row(["---"] * (1 + len(names))),
    ]
    for change in changes:
        cells = [found[name, change] for name in names]
        lines.append(
            cells_row([change, *(f"{c['spearman']:.2f} [{100 * c['accuracy']:.0f} %]" for c in cells)])
        )
    return "\n".join(lines)


TABLES: dict[str, Callable[[Path], str]] = {
    "trust-figures": figures,
    "trust-runs": runs,
    "trust-advice": advice,
}
