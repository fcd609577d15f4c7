"""docs/results/dvemb.md: data value embedding."""

from itertools import pairwise
from statistics import mean

from _tables.page import Page, Report, Section, Table, percent

_SETTINGS = {"trained": "`trained`", "peers": "lr .05, batches of 32, 20 epochs"}
_WHEN = {"first": 0.0, "1/4": 0.25, "middle": 0.5, "3/4": 0.75, "last": 1.0}


def _code(estimator: str) -> str:
    name, comma, rest = estimator.partition(",")
    return f"`{name}`{comma}{rest}"


def _by_epoch(report: Report) -> Table:
    rows = []
    for name, found in report["settings"].items():
        for estimator, row in found["estimators"].items():
            picked = [round(fraction * (found["epochs"] - 1)) for fraction in _WHEN.values()]
            cells = [f"{row['mean'][e]:.3f} [{row['least'][e]:.2f}]" for e in picked]
            rows.append([_SETTINGS[name], percent(found["accuracy"]), _code(estimator), *cells])
            rows[-1].append(f"{row['all epochs']:.3f}")
    return Table(
        ["setting", "test accuracy", "estimator", *(f"{w} epoch" for w in _WHEN), "all epochs"], rows
    )


def _summed(report: Report) -> Table:
    heads = [
        "setting",
        "test accuracy",
        "`tsloo`, summed",
        *map(_code, report["settings"]["trained"]["estimators"]),
    ]
    rows = []
    for name, found in report["settings"].items():
        values = [found["tsloo, all epochs, with loo"]]
        values += [row["all epochs, with loo"] for row in found["estimators"].values()]
        rows.append([_SETTINGS[name], percent(found["accuracy"]), *(f"{v:.3f}" for v in values)])
    return Table(heads, rows)


def _throughput(report: Report) -> Table:
    rows = []
    for name, found in report["workloads"].items():
        for count in ("1", str(report["queries"])):
            rate = found[count]["pairs_a_second"]
            cells = [name, str(found["train"]), str(found["features"]), count]
            rows.append(
                [
                    *cells,
                    f"{rate['stored']:,.0f}",
                    f"{rate['recomputed']:,.0f}",
                    f"{found[count]['ratio']:.0f}",
                ]
            )
    return Table(["model", "examples", "features", "queries at once", "stored", "recomputed", "ratio"], rows)


def _overhead(report: Report) -> Table:
    rows = []
    for name, dims in report["workloads"].items():
        for dim, row in dims.items():
            cells = [
                name,
                dim,
                str(row["features"]),
                *(f"{row[k]:.2f} ms" for k in ("plain_ms", "collected_ms")),
            ]
            rows.append(
                [*cells, *(f"{row[k]:.2f}" for k in ("ratio", "ratio_of_medians", "ratio_of_processor_time"))]
            )
    return Table(
        ["model", "`dim`", "features", "plain step", "collected", "ratio", "of medians", "in all"], rows
    )


def _phases(report: Report) -> Table:
    heads = [
        "effects by",
        "warm-up ends",
        "ascent begins",
        "first bin / floor",
        "last bin / floor",
        "seconds",
    ]
    spent = {"dvemb": sum(report["seconds"][k] for k in ("embed", "scores")), "dit": report["seconds"]["dit"]}
    rows = []
    for name, seconds in spent.items():
        row = report[name]
        cells = [f"`{name}`", f"step {row['warm-up ends']:,}", f"step {row['ascent begins']:,}"]
        rows.append([*cells, *_ends(row["magnitude"]), f"{seconds:.0f}"])
    exact = report["tsloo"]
    batches = list(zip(exact["step"], exact["magnitude"], strict=True))
    bins = [mean(v for t, v in batches if a <= t < b) for a, b in pairwise(exact["borders"])]
    words = f"`tsloo`, {len(batches)} steps in {len(bins)} bins"
    return Table(heads, [*rows, [words, "", "", *_ends(bins), f"{report['seconds']['tsloo']:.0f}"]])


def _ends(magnitude: list[float]) -> list[str]:
    return [f"{magnitude[end] / min(magnitude):.1f}" for end in (0, -1)]


def _run_of_phases(report: Report) -> str:
    options = report["options"]
    return (
        f"mnist-1v7-dnn on {options['n_train']:,} examples, {report['steps']:,} steps of "
        f"{options['batch_size']}, learning rate {options['lr']:g}, test accuracy "
        f"{percent(report['accuracy'])}. *Floor* is the least bin."
    )


def _segments(report: Report) -> Table:
    rows = [
        [
            f"{found['occurrences']:,}",
            f"{found['features']:,}",
            name,
            f"{row['seconds']:.2f}",
            f"{row['difference']:.0e}",
        ]
        for found in report["cases"]
        for name, row in found["ways"].items()
    ]
    return Table(["occurrences", "features", "recursion", "seconds", "largest difference"], rows)


PAGE = Page(
    "One step of training: dvemb",
    "The plugin [`influencekit-dvemb`](../plugins.md#influencekit-dvemb) against exact retraining "
    "(`tsloo`: the example is dropped at one step only), and what its embeddings cost.",
    {
        "dvemb-fidelity": Section(
            "Agreement by epoch",
            ("dvemb",),
            lambda report: (
                f"mnist-1v7-dnn, {report['seeds']} seeds: mean Spearman with `tsloo` over the 256 examples, "
                "dropped in one epoch alone; in brackets the least of the seeds."
            ),
            _by_epoch,
        ),
        "dvemb-all-epochs": Section(
            "Sums over all epochs",
            ("dvemb",),
            "Mean Spearman with `loo`, which drops all occurrences together, in the same runs. Dropping "
            "each occurrence alone and adding up is another thing, even exactly: the first column.",
            _summed,
        ),
        "dvemb-throughput": Section(
            "Stored embeddings",
            ("dvemb_throughput",),
            "Pairs of a training example and a query, a second, one thread. *Recomputed*: the projected "
            "gradients of all training examples again for each request, at the final parameters.",
            _throughput,
        ),
        "dvemb-overhead": Section(
            "Collecting in your own loop",
            ("dvemb_overhead",),
            lambda report: (
                f"{report['steps']} steps with and without the collector, in turn, one thread. The first "
                "ratio is of tenth percentiles, which other processes disturb least, then of medians, then "
                "of all processor time with what was written."
            ),
            _overhead,
        ),
        "dvemb-phases": Section("Phases of a run", ("dvemb_phases",), _run_of_phases, _phases),
        "dvemb-segments": Section(
            "The recursion in segments", ("dvemb_segments",), "Gradients in memory, one thread.", _segments
        ),
    },
)
