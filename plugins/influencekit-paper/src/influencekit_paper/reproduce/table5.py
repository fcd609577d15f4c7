"""Table V: flipped labels that were found, and how leave-one-out was run for the CNN."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from influencekit.windows import REMOVALS
from influencekit_paper.reproduce.report import Done, Line, Report, accuracy, mean_of, printed

__all__ = ["table5"]

METHODS = {  # the column of each in the paper's table
    "if": 0, "full": 1, "loo": 2, "first": 3, "middle": 4, "last": 5, "tracin": None, "gradient-norm": None,
}  # fmt: skip


def table5(done: Done) -> Report:
    """Flipped labels found among the k most negative, k their number."""
    paper = printed()["table_5_flipped_found_mnist"]
    lines: list[Line] = []
    notes = []
    fractions = list(dict.fromkeys(row[2] for row in done))
    for model, setting in dict.fromkeys(row[:2] for row in done):
        rows = [(fraction, done[model, setting, fraction]) for fraction in fractions]
        lines.append(Line((model, setting, "test accuracy, %"), tuple(accuracy(f) for _, f in rows)))
        apart = [done.get((model, setting, fraction, "loo")) for fraction, _ in rows]
        for method, column in METHODS.items():
            for removal in REMOVALS if method in ("first", "middle", "last") else ("",):
                figures = []
                for (fraction, found), part in zip(rows, apart, strict=True):
                    value = None if column is None else paper[fraction][model][column]
                    values = _scaled(part) if method == "loo" and part else _found(found, method, removal)
                    figures.append(mean_of(values, value))
                lines.append(Line((model, setting, f"{method} {removal}".strip()), tuple(figures)))
        if any(apart):
            notes.append(_subset(model, [each for part in apart for each in part or []]))
        said = [
            f"{line.labels[2]} {sum(f.reached for f in line.figures)}"
            for line in lines
            if line.labels[:2] == (model, setting) and line.labels[2].split()[0] in ("full", "last")
        ]
        notes.append(
            f"{model}, {setting}: at least the printed figure at so many of the {len(fractions)} levels: "
            f"{', '.join(said)}."
        )
    counts = [f"{fraction} ({found[0]['flipped']})" for fraction, found in rows]
    return Report(
        "table5", "Table V: flipped labels found on MNIST, among as many of the most negative scores",
        ("model", "setting", "method"),
        tuple(counts), lines, notes,
    )  # fmt: skip


def _found(found: Sequence[Mapping[str, Any]], method: str, removal: str) -> list[float | None]:
    if not removal:
        return [each["found"].get(method, {}).get("found") for each in found]
    ends = {"first": 0, "last": -1}
    counts = []
    for each in found:
        k = ends.get(method, len(each["epochs"]) // 2)
        counts.append(each["each"][removal][k]["found"])
    return counts


def _scaled(found: Sequence[Mapping[str, Any]]) -> list[float]:
    """Found on a part of the examples, as if the same fraction of the whole were found."""
    return [each["found"]["loo"]["found"] / each["flipped_here"] * each["flipped"] for each in found]


def _subset(model: str, found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return f"loo of the {model}: not run."
    seeds = Counter(each["flipped"] for each in found)[found[0]["flipped"]]
    examples = found[0]["examples"]
    words = f"loo of the {model}: {seeds} seed{'s' if seeds != 1 else ''}"
    if found[0]["flipped_here"] < found[0]["flipped"]:
        both = [mean_of(each["found"][n]["auc"] for each in found) for n in ("loo", "full")]
        words += (
            f", {examples} of the examples, flipped ones in proportion, and the share found there times the "
            f"number flipped. On the same examples its AUC is {both[0].mean:.3f}, full DIT's "
            f"{both[1].mean:.3f}"
        )
    spearman = mean_of(each["agreement"]["spearman"] for each in found)
    return f"{words}; Spearman of full DIT with it {spearman}."
