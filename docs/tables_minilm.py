"""The tables of the MiniLM page; docs/tables.py writes them."""

from collections.abc import Callable
from pathlib import Path
from statistics import mean, median

from tables_words import cells_row, load_result, source


def minilm(page: Path) -> str:
    """Flipped labels found in the MiniLM fine-tune, by optimizer and learning rate: means over the seeds."""
    report = load_result("minilm")
    cells = report["cells"]
    groups: dict[tuple[str, float], list[dict]] = {}
    for cell in sorted(cells, key=lambda cell: (cell["optimizer"] != "sgd", cell["lr"])):
        groups.setdefault((cell["optimizer"], cell["lr"]), []).append(cell)
    columns = list(groups.values())
    seeds = len({cell["seed"] for cell in cells})
    lines = [
        f"{source(page, 'minilm', report)}. Means over {seeds} seeds.",
        "",
        cells_row(["", *(f"{optimizer}, {lr:g}" for optimizer, lr in groups), "beats final loss"]),
        cells_row(["---"] * (len(columns) + 2)),
    ]
    for part in ("validation", "test"):
        shares = [mean(cell["accuracy"][part] for cell in some) for some in columns]
        lines.append(cells_row([f"{part} accuracy", *(f"{100 * share:.1f} %" for share in shares), ""]))
    for title, part in (("training, CPU seconds", "training"), ("all sweeps, CPU seconds", "three sweeps")):
        times = [median(cell["cpu_seconds"][part] for cell in some) for some in columns]
        lines.append(cells_row([title, *(f"{value:.0f}" for value in times), ""]))
    trust = [mean(cell["trust"] for cell in some) for some in columns]
    lines.append(cells_row(["figure of trust", *(f"{value:.2f}" for value in trust), ""]))
    for method in cells[0]["detection"]:
        row = [method]
        for some in columns:
            found = [cell["detection"][method] for cell in some]
            row.append(f"{mean(f['auc'] for f in found):.3f} ({mean(f['found'] for f in found):.1f})")
        pairs = [[cell["detection"][m]["auc"] for m in (method, "final training loss")] for cell in cells]
        wins = sum(mine > loss for mine, loss in pairs)
        row.append("" if method == "final training loss" else f"{wins} of {len(pairs)}")
        lines.append(cells_row(row))
    return "\n".join(lines)


def minilm_lds(page: Path) -> str:
    """Spearman over random halves, between the sum of the scores taken away and what retraining gave."""
    report = load_result("minilm_lds")
    runs = report["runs"]
    heads = [f"{run['optimizer']}, {run['lr']:g}: {query}" for run in runs for query in run["correlation"]]
    lines = [
        f"{source(page, 'minilm_lds', report)}. {runs[0]['subsets']} retrained halves.",
        "",
        cells_row(["score", *heads]),
        cells_row(["---"] * (len(heads) + 1)),
    ]
    for name in next(iter(runs[0]["correlation"].values())):
        found = [by[name] for run in runs for by in run["correlation"].values()]
        lines.append(cells_row([name, *(f"{value:.2f}" for value in found)]))
    return "\n".join(lines)


TABLES: dict[str, Callable[[Path], str]] = {
    "minilm": minilm,
    "minilm-lds": minilm_lds,
}
