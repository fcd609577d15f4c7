"""docs/results/evaluation.md: what sums of scores are worth."""

from collections.abc import Iterator
from typing import Any

from _tables.page import Page, Report, Section, Table, percent

Line = tuple[str, str, dict[str, Any]]  # the workload with its accuracy, the estimator, its figures


def _workloads(report: Report) -> Iterator[tuple[str, Report]]:
    for name, workload in report["workloads"].items():
        yield f"{name}, {percent(workload['accuracy']['mean'])}", workload["queries"]


def _lines(report: Report, query: str, evaluation: str) -> list[Line]:
    return [
        (words, estimator, figures)
        for words, queries in _workloads(report)
        for estimator, figures in queries[query][evaluation]["estimators"].items()
    ]


def _by_line(report: Report, query: str, evaluation: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {line[:2]: line[2] for line in _lines(report, query, evaluation)}


def _lds(figures: dict[str, Any]) -> str:
    found = figures["lds"]
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _scores(report: Report) -> Table:
    single = _by_line(report, "test-losses", "lds:m=200")
    groups, found, slopes = (
        _by_line(report, "test-loss", e) for e in ("leave-k-out", "mislabel-auc", "taylor")
    )
    sizes = next(_workloads(report))[1]["test-loss"]["leave-k-out"]["k"]
    heads = ["workload, test accuracy", "estimator", "LDS, mean test loss", "LDS, single test losses"]
    heads += [*(f"leave-{k}-out, Spearman" for k in sizes), f"retrained / predicted, k = {sizes[-1]}"]
    rows = []
    for workload, estimator, figures in _lines(report, "test-loss", "lds:m=200"):
        key = (workload, estimator)
        cells = [workload, f"`{estimator}`", _lds(figures), _lds(single[key])]
        cells += [f"{value['mean']:.3f}" for value in groups[key]["spearman"]]
        cells += [f"{groups[key]['size'][-1]['mean']:.2f}", f"{found[key]['auc']['mean']:.4f}"]
        rows.append([*cells, *_slope(slopes.get(key))])
    for words, queries in _workloads(report):
        control = queries["test-loss"]["mislabel-auc"]["control"]["auc"]["mean"]
        rows.append([words, "final training loss", *[""] * (3 + len(sizes)), f"{control:.4f}", "", ""])
    return Table([*heads, "mislabel AUC", "Taylor slope", "2 below h"], sorted(rows, key=lambda row: row[0]))


def _slope(figures: dict[str, Any] | None) -> list[str]:
    if figures is None:
        return ["", ""]
    below = figures["smooth_below"]["mean"]  # of the seeds that have one
    return [f"{figures['slope']['mean']:.2f}", "" if below is None else f"{below:.0e}"]


def _brittleness(report: Report) -> Table:
    sizes = next(_workloads(report))[1]["test-losses"]["brittleness"]["k"]
    heads = ["workload, test accuracy", "removed, by", *(f"mean test loss, k = {k}" for k in sizes)]
    whole = _by_line(report, "test-loss", "brittleness")
    rows = []
    for workload, estimator, figures in _lines(report, "test-losses", "brittleness"):
        effects, flips = whole[workload, estimator]["helpful"], figures["helpful_flips"]
        rows.append([workload, f"most helpful, `{estimator}`", *_pairs(effects, flips)])
    for words, queries in _workloads(report):
        effects = queries["test-loss"]["brittleness"]["control"]["effect"]
        flips = queries["test-losses"]["brittleness"]["control"]["flips"]
        rows.append([words, "random", *_pairs(effects, flips)])
    return Table([*heads, *(f"flipped, k = {k}" for k in sizes)], sorted(rows, key=lambda row: row[0]))


def _pairs(effects: list[Report], flips: list[Report]) -> list[str]:
    return [f"{v['mean']:+.4f}" for v in effects] + [percent(v["mean"]) for v in flips]


def _coverage(report: Report) -> Table:
    heads = [
        "correlation",
        "outliers",
        "pairs",
        "queries",
        "interval used",
        "width",
        "plain percentiles",
        "width",
    ]
    rows = []
    for row in report["coverage"]:
        cells = [f"{row['rho']:g}", f"{100 * row['outliers']:g} %", str(row["pairs"]), str(row["queries"])]
        for which in ("used", "percentile"):
            cells += [percent(row[which], 0), f"{row[f'{which}_width']:.3f}"]
        rows.append(cells)
    return Table(heads, rows)


PAGE = Page(
    "Evaluation",
    "What sums of scores are worth, by `influencekit compare --evaluate`: "
    "[Trust](../trust.md#more-evaluations) explains the columns. `dit` and `sgd-influence` are the same "
    "recursion on the whole run: one piece of evidence.",
    {
        "evaluation": Section(
            "All evaluations",
            ("evaluation",),
            lambda report: (
                f"Setting `trained`, {report['seeds']} seeds, 200 random halves each; in brackets 95 % "
                "intervals. On the ReLU network `dit` ranks halves by mean test loss no worse than exact "
                "single effects do, since effects of single removals need not add up. Flipped labels are "
                "found by all methods, and best by the final training loss: AUC does not separate the "
                "methods here."
            ),
            _scores,
        ),
        "evaluation-brittleness": Section(
            "Brittleness",
            ("evaluation",),
            "The k most helpful examples are left out and the run is trained again: the effect on the "
            "mean test loss, and, of 16 test examples each with its own k, the fraction of predictions "
            "that flips.",
            _brittleness,
        ),
        "evaluation-coverage": Section(
            "What the intervals are worth",
            ("evaluation",),
            lambda report: (
                f"Fraction of {report['coverage'][0]['trials']} trials in which a 95 % interval holds the "
                "truth. The interval is Efron's BCa for one query. For the mean over many queries, whose "
                "resamples lie below the estimate because of ties, it is the basic interval on the scale "
                "of Fisher's z."
            ),
            _coverage,
        ),
    },
)
