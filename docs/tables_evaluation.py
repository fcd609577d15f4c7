"""The tables about evaluations beside agreement; docs/tables.py writes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tables_words import cells_row, load_result, source


def rows(report: dict[str, Any], query: str, evaluation: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(workload with its accuracy, estimator, its figures)."""
    found = []
    for name, workload in report["workloads"].items():
        words = f"{name}, {100 * workload['accuracy']['mean']:.1f} %"
        each = workload["queries"][query][evaluation]["estimators"]
        found += [(words, estimator, figures) for estimator, figures in each.items()]
    return found


def score(figures: dict[str, Any]) -> str:
    found = figures["lds"]
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def scores(page: Path) -> str:
    report = load_result("evaluation")
    single = {row[:2]: row[2] for row in rows(report, "test-losses", "lds:m=200")}
    groups = {row[:2]: row[2] for row in rows(report, "test-loss", "leave-k-out")}
    found = {row[:2]: row[2] for row in rows(report, "test-loss", "mislabel-auc")}
    slopes = {row[:2]: row[2] for row in rows(report, "test-loss", "taylor")}
    first = next(iter(report["workloads"].values()))["queries"]["test-loss"]["leave-k-out"]["k"]
    lines = [
        f"{source(page, 'evaluation', report)}. Setting `trained`, {report['seeds']} seeds, 200 subsets "
        "each; in brackets 95 % intervals.",
        "",
        cells_row(
            [
                "workload, test accuracy", "estimator", "LDS, mean test loss", "LDS, single test losses",
                *(f"leave-{k}-out, Spearman" for k in first),
                f"retrained / predicted, k = {first[-1]}", "mislabel AUC", "Taylor slope",
                "2 below h",
            ]
        ),
        cells_row(["---"] * (8 + len(first))),
    ]  # fmt: skip
    for workload, estimator, figures in rows(report, "test-loss", "lds:m=200"):
        key = (workload, estimator)
        spearman = [f"{value['mean']:.3f}" for value in groups[key]["spearman"]]
        slope = slopes.get(key)
        cells = [workload, f"`{estimator}`", score(figures), score(single[key]), *spearman]
        cells += [f"{groups[key]['size'][-1]['mean']:.2f}", f"{found[key]['auc']['mean']:.4f}"]
        cells += ["", ""] if slope is None else _slope(slope)
        lines.append(cells_row(cells))
    for name, workload in report["workloads"].items():
        words = f"{name}, {100 * workload['accuracy']['mean']:.1f} %"
        control = workload["queries"]["test-loss"]["mislabel-auc"]["control"]["auc"]["mean"]
        blank = [""] * (3 + len(first))
        lines.append(cells_row([words, "final training loss", *blank, f"{control:.4f}", "", ""]))
    return "\n".join([*lines[:4], *sorted(lines[4:], key=_workload)])


def _slope(figures: dict[str, Any]) -> list[str]:
    below = figures["smooth_below"]["mean"]  # of the seeds that have one
    return [f"{figures['slope']['mean']:.2f}", "" if below is None else f"{below:.0e}"]


def brittleness(page: Path) -> str:
    report = load_result("evaluation")
    first = next(iter(report["workloads"].values()))["queries"]["test-losses"]["brittleness"]
    heads = ["workload, test accuracy", "removed, by", *(f"mean test loss, k = {k}" for k in first["k"])]
    heads += [f"flipped, k = {k}" for k in first["k"]]
    lines = [cells_row(heads), cells_row(["---"] * len(heads))]
    whole = {row[:2]: row[2] for row in rows(report, "test-loss", "brittleness")}
    for workload, estimator, figures in rows(report, "test-losses", "brittleness"):
        effects = [f"{value['mean']:+.4f}" for value in whole[workload, estimator]["helpful"]]
        flips = [f"{100 * value['mean']:.1f} %" for value in figures["helpful_flips"]]
        lines.append(cells_row([workload, f"most helpful, `{estimator}`", *effects, *flips]))
    for name, workload in report["workloads"].items():
        words = f"{name}, {100 * workload['accuracy']['mean']:.1f} %"
        queries = workload["queries"]
        control = queries["test-loss"]["brittleness"]["control"]["effect"]
        flips = queries["test-losses"]["brittleness"]["control"]["flips"]
        cells = [f"{v['mean']:+.4f}" for v in control] + [f"{100 * v['mean']:.1f} %" for v in flips]
        lines.append(cells_row([words, "random", *cells]))
    return "\n".join([*lines[:2], *sorted(lines[2:], key=_workload)])


def _workload(line: str) -> str:
    return line.split("|")[1]


def coverage(page: Path) -> str:
    report = load_result("evaluation")
    heads = ["correlation", "outliers", "pairs", "queries"]
    heads += ["interval used", "width", "plain percentiles", "width"]
    lines = [
        f"{source(page, 'evaluation', report)}. Share of {report['coverage'][0]['trials']} trials in which a "
        "95 % interval holds the truth.",
        "",
        cells_row(heads),
        cells_row(["---"] * len(heads)),
    ]
    for row in report["coverage"]:
        cells = [f"{row['rho']:g}", f"{100 * row['outliers']:g} %", str(row["pairs"]), str(row["queries"])]
        for which in ("used", "percentile"):
            cells += [f"{100 * row[which]:.0f} %", f"{row[f'{which}_width']:.3f}"]
        lines.append(cells_row(cells))
    return "\n".join(lines)


TABLES: dict[str, Callable[[Path], str]] = {
    "evaluation": scores,
    "evaluation-brittleness": brittleness,
    "evaluation-coverage": coverage,
}
