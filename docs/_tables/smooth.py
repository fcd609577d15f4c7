"""docs/results/smooth.md: the smoothed sweep beside `dit`, on workloads with corners."""

from _tables.page import Page, Report, Section, Table, percent

WORDS = {
    "listed": "Those on which it was developed",
    "warned": "the one on which a seed was seen to fall",
    "other": "those that had no part in it",
}


def _gain(value: dict[str, float]) -> str:
    return f"{value['mean']:+.3f} ({value['least']:+.3f} to {value['most']:+.3f})"


def _table(report: Report) -> Table:
    heads = ["workload", "test accuracy", "Spearman, `dit`", "with Gauss-Newton", "`smooth`"]
    heads += ["gain (least to most)", "Pearson, `dit`", "`smooth`", "gain (least to most)"]
    rows = []
    for name, found in report["workloads"].items():
        cells = [name, percent(found["accuracy"]["mean"])]
        for metric, methods in (
            ("spearman", ("dit", "gauss-newton", "smooth")),
            ("pearson", ("dit", "smooth")),
        ):
            cells += [f"{found[each][metric]['mean']:.3f}" for each in methods]
            cells.append(_gain(found["gain"][metric]))
        rows.append(cells)
    return Table(heads, rows)


def _counted(report: Report) -> str:
    said = []
    for kind, words in WORDS.items():
        parts = []
        for m, name in (("spearman", "Spearman"), ("pearson", "Pearson")):
            found = report["kinds"][kind][m]
            parts.append(f"{name} {found['gain']} (mean gain {found['mean']:+.3f})")
        count = report["kinds"][kind]["spearman"]["workloads"]
        said.append(f"{words} ({count}): {', '.join(parts)}")
    costs = [found["cost_relative_to_dit"] for found in report["workloads"].values()]
    slower = sum(row["seconds"]["smooth"] > row["seconds"]["loo"] for row in report["rows"])
    return (
        f"How many workloads gain, by their means over seeds. {'; '.join(said)}. In clock time, on a busy "
        f"machine, `smooth` took {min(costs):.1f} to {max(costs):.1f} times `dit`, tracing included, and "
        f"more than `loo` in {slower} of {len(report['rows'])} cells."
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
                f"Means over three seeds (two of the CNN, with 24 examples), {report['runs']} runs. The "
                "method was developed on the first three workloads; on the fourth one seed was seen to fall. "
                "All below had no part in it: other networks on the same data, other settings, four classes."
            ),
            _table,
            _counted,
        ),
    },
)
