"""The tables about data value embedding; docs/tables.py writes them."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import mean

from tables_words import cells_row, load_result, source

_SETTINGS = {"trained": "`trained`", "peers": "lr .05, batches of 32, 20 epochs"}
_PLACES = {"first": 0.0, "1/4": 0.25, "middle": 0.5, "3/4": 0.75, "last": 1.0}


def fidelity(page: Path) -> str:
    """Spearman with exact trajectory-specific leave-one-out, by the epoch of the removal."""
    report = load_result("dvemb")
    lines = [
        f"mnist-1v7-dnn, {report['seeds']} seeds: mean Spearman with `tsloo` over the 256 examples, dropped "
        f"in one epoch alone; in brackets the least of the seeds. {source(page, 'dvemb', report)}.",
        "",
        cells_row(
            ["setting", "test accuracy", "estimator", *(f"{place} epoch" for place in _PLACES), "all epochs"]
        ),
        cells_row(["---"] * (4 + len(_PLACES))),
    ]
    for name, found in report["settings"].items():
        for estimator, row in found["estimators"].items():
            picked = [round(share * (found["epochs"] - 1)) for share in _PLACES.values()]
            cells = [f"{row['mean'][e]:.3f} [{row['least'][e]:.2f}]" for e in picked]
            name_of = f"{_SETTINGS[name]}", f"{100 * found['accuracy']:.1f} %", _code(estimator)
            lines.append(cells_row([*name_of, *cells, f"{row['all epochs']:.3f}"]))
    return "\n".join(lines)


def _code(estimator: str) -> str:
    name, comma, rest = estimator.partition(",")
    return f"`{name}`{comma}{rest}"


def all_epochs(page: Path) -> str:
    """Sums over epochs against leave-one-out of all occurrences together."""
    report = load_result("dvemb")
    heads = ["setting", "`tsloo`, summed", *(_code(e) for e in report["settings"]["trained"]["estimators"])]
    lines = [
        "Sums over all epochs against `loo`, which drops all occurrences together; mean Spearman, same runs:",
        "",
        cells_row(heads),
        cells_row(["---"] * len(heads)),
    ]
    for name, found in report["settings"].items():
        values = [found["tsloo, all epochs, with loo"]]
        values += [row["all epochs, with loo"] for row in found["estimators"].values()]
        lines.append(cells_row([_SETTINGS[name], *(f"{v:.3f}" for v in values)]))
    return "\n".join(lines)


def throughput(page: Path) -> str:
    """Pairs of an example and a query a second."""
    report = load_result("dvemb_throughput")
    queries = str(report["queries"])
    lines = [
        f"Pairs of a training example and a query, a second; one thread. "
        f"{source(page, 'dvemb_throughput', report)}.",
        "",
        cells_row(["model", "examples", "features", "queries at once", "stored", "recomputed", "ratio"]),
        cells_row(["---"] * 7),
    ]
    for name, found in report["workloads"].items():
        for count in ("1", queries):
            rate = found[count]["pairs_a_second"]
            cells = [name, str(found["train"]), str(found["features"]), count]
            cells += [f"{rate['stored']:,.0f}", f"{rate['recomputed']:,.0f}", f"{found[count]['ratio']:.0f}"]
            lines.append(cells_row(cells))
    return "\n".join(lines)


def overhead(page: Path) -> str:
    """A training step with and without the collector."""
    report = load_result("dvemb_overhead")
    lines = [
        f"{report['steps']} steps with and without, in turn, one thread. Tenth percentiles, which other "
        "processes disturb least, then medians, then all processor time with what was written. "
        f"{source(page, 'dvemb_overhead', report)}.",
        "",
        cells_row(["model", "`dim`", "features", "plain step", "collected", "ratio", "of medians", "in all"]),
        cells_row(["---"] * 7),
    ]
    for name, dims in report["workloads"].items():
        for dim, row in dims.items():
            cells = [
                name,
                dim,
                str(row["features"]),
                f"{row['plain_ms']:.2f} ms",
                f"{row['collected_ms']:.2f} ms",
            ]
            ratios = ("ratio", "ratio_of_medians", "ratio_of_processor_time")
            cells += [f"{row[k]:.2f}" for k in ratios]
            lines.append(cells_row(cells))
    return "\n".join(lines)


def phases(page: Path) -> str:
    """What the picture shows, in numbers."""
    report = load_result("dvemb_phases")
    options = report["options"]
    lines = [
        f"mnist-1v7-dnn on {options['n_train']:,} examples, {report['steps']:,} steps of "
        f"{options['batch_size']}, learning rate {options['lr']:g}, test accuracy "
        f"{100 * report['accuracy']:.1f} %. {source(page, 'dvemb_phases', report)}.",
        "",
        cells_row(
            [
                "effects by",
                "warm-up ends",
                "ascent begins",
                "first bin / floor",
                "last bin / floor",
                "seconds",
            ]
        ),
        cells_row(["---"] * 6),
    ]
    seconds = {
        "dvemb": sum(report["seconds"][k] for k in ("embed", "scores")),
        "dit": report["seconds"]["dit"],
    }
    for name, spent in seconds.items():
        row = report[name]
        m = row["magnitude"]
        cells = [f"`{name}`", f"step {row['warm-up ends']:,}", f"step {row['ascent begins']:,}"]
        cells += [f"{m[0] / min(m):.1f}", f"{m[-1] / min(m):.1f}", f"{spent:.0f}"]
        lines.append(cells_row(cells))
    exact = report["tsloo"]
    batches = list(zip(exact["step"], exact["magnitude"], strict=True))
    m = [mean(v for t, v in batches if a <= t < b) for a, b in pairwise(exact["borders"])]
    cells = [f"`tsloo`, {len(batches)} steps in {len(m)} bins", "", ""]
    cells += [f"{m[0] / min(m):.1f}", f"{m[-1] / min(m):.1f}"]
    return "\n".join([*lines, cells_row([*cells, f"{report['seconds']['tsloo']:.0f}"])])


def segments(page: Path) -> str:
    """The recursion step by step, and in segments."""
    report = load_result("dvemb_segments")
    lines = [
        f"Gradients in memory, one thread. {source(page, 'dvemb_segments', report)}.",
        "",
        cells_row(["occurrences", "features", "recursion", "seconds", "largest difference"]),
        cells_row(["---"] * 5),
    ]
    for found in report["cases"]:
        for name, row in found["ways"].items():
            cells = [f"{found['occurrences']:,}", f"{found['features']:,}", name]
            lines.append(cells_row([*cells, f"{row['seconds']:.2f}", f"{row['difference']:.0e}"]))
    return "\n".join(lines)


TABLES: dict[str, Callable[[Path], str]] = {
    "dvemb-all-epochs": all_epochs,
    "dvemb-fidelity": fidelity,
    "dvemb-overhead": overhead,
    "dvemb-phases": phases,
    "dvemb-segments": segments,
    "dvemb-throughput": throughput,
}
