"""docs/results/smooth.md: the smoothed sweep beside `dit`, on workloads with corners."""

from _tables.page import Page, Report, Section, Table, percent

WORDS = {
    "listed": "on which it was developed",
    "warned": "on which its author saw a loss",
    "other": "which had no part in it",
}


def _figure(value: dict[str, float]) -> str:
    return f"{value['mean']:.3f} ± {value['std']:.3f}"


def _gain(value: dict[str, float]) -> str:
    return f"{value['mean']:+.3f} ({value['least']:+.3f} to {value['most']:+.3f})"


def _table(report: Report) -> Table:
    heads = ["workload", "test accuracy"]
    for metric in ("Spearman", "Pearson"):
        heads += [f"{metric}, `dit`", "`smooth`", "gain (least to most)"]
    heads += ["seeds with a gain in Spearman", "in Pearson"]
    rows = []
    for kind in WORDS:
        for name, found in report["workloads"].items():
            if found["kind"] != kind:
                continue
            cells = [name, percent(found["accuracy"]["mean"])]
            for metric in ("spearman", "pearson"):
                cells += [_figure(found[each][metric]) for each in ("dit", "smooth")]
                cells.append(_gain(found["gain"][metric]))
            better = [f"{found['gain'][m]['better']} of {found['seeds']}" for m in ("spearman", "pearson")]
            rows.append([*cells, *better])
    return Table(heads, rows)


def counted(report: Report) -> str:
    """How many workloads of each kind gain, in words."""
    said = []
    for kind, words in WORDS.items():
        found = report["kinds"].get(kind)
        if found:
            parts = [
                f"{name} rises on {found[m]['gain']} of {found[m]['workloads']} "
                f"(mean {found[m]['mean']:+.3f})"
                for m, name in (("spearman", "Spearman"), ("pearson", "Pearson"))
            ]
            said.append(f"of the workloads {words}, {', '.join(parts)}")
    costs = [found["cost_relative_to_dit"] for found in report["workloads"].values()]
    return (
        f"Means over seeds: {'; '.join(said)}. In clock time `smooth` took {min(costs):.1f} to "
        f"{max(costs):.1f} times `dit`, tracing included."
    )


PAGE = Page(
    "The smoothed sweep",
    "The estimator `smooth` of [influencekit-smooth](../smooth.md) beside `dit`, each against exact "
    "leave-one-out: mean test loss, whole run, setting `trained`, SGD.",
    {
        "smooth": Section(
            "Workloads that were known, and others",
            ("smooth",),
            lambda report: (
                f"Mean ± deviation over seeds, {report['runs']} runs. The first three workloads are those on "
                "which the method was developed, the fourth is one on which its author saw one seed fall; "
                "all below had no part in it: other networks on the same data, other settings, four classes."
            ),
            _table,
            counted,
        ),
    },
)
