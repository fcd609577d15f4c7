"""Tables of docs/reproduce.md: what `influencekit reproduce` saved, with the same columns."""

from collections.abc import Callable
from pathlib import Path

from tables_words import cells_row, link, load_result


def shown(
    name: str,
    columns: dict[str, str] | None = None,
    keep: Callable[[dict], bool] = lambda line: True,
    spread: bool = True,
    notes: bool = True,
) -> Callable[[Path], str]:
    """A table of a result: its `columns` (all, unless said, under their own names), the lines to `keep`."""

    def table(page: Path) -> str:
        report = load_result(f"reproduce-{name}")
        first = report["lines"][0]
        heads = [head for head in first if head != "figures"]
        chosen = columns or {column: column for column in first["figures"]}
        printed = any(f["printed"] is not None for line in report["lines"] for f in line["figures"].values())
        brackets = "; the paper's in brackets" if printed else ""
        lines = [
            f"`{report['command']}`, {report['machine']}, torch {report['torch']}: "
            f"{link(page, f'benchmarks/results/reproduce-{name}.json', 'figures')}. Mean "
            f"{'± deviation ' if spread else ''}over up to {report['seeds']} seeds{brackets}.",
            "",
            cells_row([*heads, *chosen.values()]),
            cells_row(["---"] * (len(heads) + len(chosen))),
        ]
        for line in filter(keep, report["lines"]):
            cells = [_cell(line["figures"][column], column, spread) for column in chosen]
            lines.append(cells_row([*(line[head] for head in heads), *cells]))
        if notes:
            lines += ["", *(f"- {note}" for note in report["notes"])]
        return "\n".join(lines)

    return table


def _cell(figure: dict, column: str, spread: bool) -> str:
    if not figure["seeds"]:
        return "-"
    digits = 1 if column == "accuracy" else 2
    text = f"{figure['mean']:.{digits}f}"
    if spread and figure["seeds"] > 1 and column != "accuracy":
        text += f" ± {figure['std']:.{digits}f}"
    text += "~" if figure.get("ties") else ""
    return text if figure["printed"] is None else f"{text} [{figure['printed']:.2f}]"


def _brief(line: dict) -> bool:
    """Of Table V what fits a page: of the windows those of removal `window`, and `last` of all three."""
    words = line["method"].split()
    return words[0] not in ("first", "middle") or words[1] == "window"


def quick(page: Path) -> str:
    """How long a first look takes."""
    report = load_result("reproduce-quick")
    figures = link(page, "benchmarks/results/reproduce-quick.json", "figures")
    return (
        f"`{report['command']}` takes {report['wall_seconds'] / 60:.1f} minutes for its {report['cells']} "
        f"cells ({report['machine']}: {figures})."
    )


def initial(page: Path) -> str:
    """Flipped labels found, from other initial weights."""
    report = load_result("initial")
    names = ("full", "last global", "last window", "last occurrence")
    lines = [
        f"`{report['command']}`, {report['machine']}: "
        f"{link(page, 'benchmarks/results/initial.json', 'figures')}. "
        "Of 25 flipped labels (10 %), found on average:",
        "",
        cells_row(["workload", "initial weights", "seeds", "test accuracy", *names]),
        cells_row(["---"] * 8),
    ]
    for row in report["rows"]:
        cells = [row["workload"].partition(":")[0], row["start"], str(row["seeds"])]
        cells += [f"{100 * row['accuracy']:.1f} %", *(f"{row[name]:.1f}" for name in names)]
        lines.append(cells_row(cells))
    return "\n".join(lines)


TABLES = {
    "reproduce-initial": initial,
    "reproduce-quick": quick,
    "reproduce-1": shown("table1"),
    "reproduce-2": shown("table2"),
    "reproduce-3": shown("table3"),
    "reproduce-4": shown("table4", spread=False),
    "reproduce-5": shown("table5", keep=_brief),
    "reproduce-seeds": shown("seeds"),
    "reproduce-windows": shown("windows"),
}
