"""docs/results/trust.md: what the figure of trust is worth."""

import numpy as np

from _tables.page import Page, Report, Section, Table, percent

FIGURES = {
    "retrain:16": ("`retrain`, 16 examples", "16"),
    "retrain:32": ("`retrain`, 32 examples", "32"),
    "smooth": ("`smooth`: cosine of the test losses' changes", "2"),
    "smooth, training losses": ("the same of the training losses'", "2"),
    "smooth, signs": ("signs of the test losses' changes, weighted", "2"),
    "smooth, parameters": ("cosine of the parameters' changes", "2"),
    "smooth, signs of parameters": ("signs of the parameters' changes, weighted (the paper's)", "2"),
}


def _figures(report: Report) -> Table:
    heads = ["figure", "trainings", "time / `dit`", "limit", "rank correlation", "warning right", "missed"]
    heads += ["false alarms", "right, trained networks", "right, AdamW"]
    rows = []
    for name, (words, trainings) in FIGURES.items():
        found = report["figures"][name]
        time = found["median_time_relative_to_dit"]
        cells = [words, trainings, "" if time is None else f"{time:.1f}"]
        cells += [f"{found['limit']:.2f}", f"{found['rank_correlation']:.2f}"]
        cells += [f"{found['right']} of {found['runs']}", str(found["missed"]), str(found["false_alarms"])]
        others = (found["trained_networks"], found["adamw"])
        rows.append([*cells, *(f"{other['right']} of {other['runs']}" for other in others)])
    return Table(heads, rows)


def _runs_below(report: Report) -> str:
    first = report["figures"]["smooth"]
    below = [
        f"{each['low']} of {each['runs']}" for each in (first, first["trained_networks"], first["adamw"])
    ]
    return (
        "The truth is Spearman's correlation of `dit` with leave-one-out of all examples. It is below "
        f"{report['low']} in {below[0]} runs, in {below[1]} of the networks in the setting `trained` among "
        f"them, and in {below[2]} with AdamW. *Missed*: the truth is below and there is no warning. *Rank "
        "correlation*: of the figure with the truth. Limits and variants were chosen on the first eight "
        "seeds, the table shows the other eight; AdamW played no part in choosing. `retrain` is here the "
        "rule of an earlier version, the mean of both correlations over the random examples; today's "
        "smaller of the two, with the largest scores included, is lower on the same run."
    )


def _runs(report: Report) -> Table:
    kinds: dict[tuple[str, ...], list[Report]] = {}
    for row in report["rows"]:
        kinds.setdefault(tuple(row["run"][:3]), []).append(row)
    rows = []
    for (name, setting, kind), found in sorted(kinds.items()):
        columns = [[row["spearman"] for row in found]]
        columns += [[row["figures"][figure] for row in found] for figure in ("retrain:16", "smooth")]
        spread = [f"{np.mean(column):.2f} ± {np.std(column):.2f}" for column in columns]
        accuracy = percent(float(np.mean([row["accuracy"] for row in found])))
        rows.append([name, setting, "" if name.endswith("-lr") else kind, accuracy, *spread])
    return Table(
        ["workload", "setting", "", "test accuracy", "Spearman, truth", "`retrain`", "`smooth`"], rows
    )


WINDOWED = {
    "trust": "`trust`, the smaller of both correlations", "spearman": "`spearman`", "pearson": "`pearson`",
    "metasmoothness": "`method=\"smooth\"`",
}  # fmt: skip


def _windows(report: Report) -> Table:
    rows = []
    for name, words in WINDOWED.items():
        found = report["figures"][name]["measured"]
        cells = [words, *("" if found[k] is None else f"{found[k]:.2f}" for k in ("auc", "rank_correlation"))]
        believed = [f"{found[f'{end}_believed']} of {found[end]}" for end in ("high", "low")]
        rows.append([*cells, f"{found['limit']:.2f}", *believed])
    heads = ["figure of the window", "AUC", "rank correlation", "limit"]
    return Table(
        [*heads, f"believed, truth above {report['high']:g}", f"believed, truth below {report['low']:g}"],
        rows,
    )


def _window_words(report: Report) -> str:
    count = report["figures"]["trust"]["measured"]["windows"]
    runs, asked = len({tuple(row["run"][:3]) for row in report["rows"]}), report["examples"]
    return (
        f'`ik.trust(run, windows="horizons")` on {runs} kinds of runs: absence from the start, in the last '
        "epochs, and in one epoch before the end, by all three removals. The truth of a window is Spearman's "
        f"correlation of `dit` with leave-one-out of {asked or 'all'} examples in it. *AUC*: of a window "
        f"whose truth is above {report['high']:g} and one below {report['low']:g}, how often the figure of "
        f"the first is the higher one. The limit is chosen on {report['chosen_seeds']} seeds, the table "
        f"shows the {count} windows of {report['measured_seeds']} others."
    )


def _window_notes(report: Report) -> str:
    at = report["at_the_limit_of_the_warning"]
    return (
        f"At the limit of the warning, {at['limit']:g}, {at['high_believed']} of {at['high']} windows above "
        f"and {at['low_believed']} of {at['low']} below are believed."
    )


def _advice(report: Report) -> Table:
    names = list(dict.fromkeys(row["workload"] for row in report["advice"]))
    changes = list(dict.fromkeys(row["change"] for row in report["advice"]))
    found = {(row["workload"], row["change"]): row for row in report["advice"]}

    def cell(name: str, change: str) -> str:
        row = found[name, change]
        return f"{row['spearman']:.2f} [{100 * row['accuracy']:.0f} %]"

    return Table(
        ["change", *names], [[change, *(cell(name, change) for name in names)] for change in changes]
    )


PAGE = Page(
    "The figure of trust",
    "How often the warning of [`ik.trust`](../trust.md) is right, on the bundled workloads in both "
    "settings, the networks with ReLU and with a softplus that differs from it by at most 0.035. Logistic "
    "regression and setting `paper` are easy and make the counts look good; the errors are in networks "
    "that learn.",
    {
        "trust-figures": Section("Ways to measure it", ("trust",), _runs_below, _figures),
        "trust-runs": Section("Kinds of runs", ("trust",), "Truth and both figures, over all seeds.", _runs),
        "trust-windows": Section("Windows", ("trust_windows",), _window_words, _windows, _window_notes),
        "trust-advice": Section(
            "What makes training smoother",
            ("trust",),
            "Spearman of `dit` with retraining without 96 examples, four seeds, setting `trained`; test "
            "accuracy in brackets.",
            _advice,
        ),
    },
)
