"""docs/results/what-a-score-is-worth.md: what can be reached and what is, for one example and for sets."""

import numpy as np

from _tables.page import Page, Report, Section, Table, percent

HALVES, NINE_TENTHS = "0.5", "0.9"
ABSENCES = {  # by the removal of a window of `horizons`: words, and which of its spans varies
    "global": ("from the start, evaluated after", "reach"),
    "window": ("in the last", "reach"),
    "occurrence": ("in one epoch, before the end by", "gap"),
}
EPOCHS = (1, 2, 4, 8, 16, 32)


def _ceilings(report: Report) -> Table:
    heads = ["workload", "setting", "test accuracy", "`loo` again", "ceiling", "`dit`", "`dit` / ceiling"]
    rows = []
    for name, settings in report["workloads"].items():
        for setting, found in sorted(settings.items(), reverse=True):
            x, share = found["moved"]["0.001"], found["shares"]["0.001"]
            told = [x["agreement"]["spearman"], x["ceiling"]["spearman"]]
            told += [x["estimators"]["dit"]["loo"]["spearman"]]
            cells = [name, setting, percent(found["accuracy"]["mean"]), *(f"{t['mean']:.2f}" for t in told)]
            cells += [f"{share['dit']['loo']['spearman']:.2f}"]
            cells += [f"{x['estimators']['if']['loo']['spearman']['mean']:.2f}"]
            rows.append([*cells, f"{share['if']['loo']['spearman']:.2f}", str(found["seeds"])])
    return Table([*heads, "`if`", "`if` / ceiling", "seeds"], rows)


def _roughness(report: Report) -> Table:
    heads = ["workload", "learning rate", "epochs", "test accuracy", "`loo` again", "ceiling", "`dit`"]
    rows = []
    for name, cells in report["workloads"].items():
        for cell in sorted(cells, key=lambda c: (c["length"], c["rate"])):
            told = [cell[k]["mean"] for k in ("again", "ceiling", "dit")]
            about = [name, f"{cell['lr']:g}", str(cell["epochs"]), percent(cell["accuracy"]["mean"])]
            rows.append([*about, *(f"{t:.2f}" for t in told), f"{told[2] / told[1]:.2f}"])
    return Table([*heads, "`dit` / ceiling"], rows)


def _horizon(report: Report) -> Table:
    kinds: dict[tuple[str, str], list[Report]] = {}
    for row in report["rows"]:
        if row["run"][1] == "trained":
            kinds.setdefault((row["run"][0], row["run"][2]), []).append(row)
    rows = []
    for (name, kind), runs in kinds.items():
        where = [name if name.endswith("-lr") else f"{name}, {kind}"]
        where += [percent(float(np.mean([run["accuracy"] for run in runs])))]
        for removal, (words, span) in ABSENCES.items():
            rows.append([*where, words, *_by_epochs(runs, removal, span)])
    heads = ["workload", "test accuracy", "absent", "1 epoch", *map(str, EPOCHS[1:]), "most"]
    return Table(heads, rows)


def _by_epochs(runs: list[Report], removal: str, span: str) -> list[str]:
    """The mean agreement in the windows of a removal, by the epochs of their span; the longest is last."""
    found: dict[int, list[float]] = {}
    for run in runs:
        epoch = run["reach"][0]  # the first window is the first epoch
        mine = [
            (reach_or_gap // epoch, truth)
            for name, reach_or_gap, truth in zip(run["removal"], run[span], run["true_spearman"], strict=True)
            if name == removal and truth is not None
        ]
        longest = max(epochs for epochs, _ in mine)
        for epochs, truth in mine:
            found.setdefault(-1 if epochs == longest else epochs, []).append(truth)
    return [f"{np.mean(found[epochs]):.2f}" if epochs in found else "" for epochs in (*EPOCHS, -1)]


def _sets(report: Report) -> Table:
    heads = ["workload, test accuracy", "seeds", "sets", "`dit`", "summed `loo`", "centred"]
    rows = []
    for case, found in report["cases"].items():
        for fraction, words in ((HALVES, "halves"), (NINE_TENTHS, "90 %")):
            lds, minus = found[fraction]["lds"], found[fraction]["centred_minus"]
            cells = [f"{case}, {percent(found['accuracy']['mean'])}", str(found["seeds"]), words]
            cells += [
                f"{lds[name]['mean']:.3f} ± {lds[name]['std']:.3f}" for name in ("dit", "loo", "centred")
            ]
            rows.append([*cells, *(_gain(minus[name]) for name in ("dit", "loo"))])
    return Table([*heads, "gain over `dit`", "gain over `loo`"], rows)


def _gain(found: dict[str, float | None]) -> str:
    mean, low, high = (found[key] for key in ("mean", "low", "high"))
    return f"{mean:+.3f}" + ("" if low is None else f" [{low:+.3f}, {high:+.3f}]")


def _slopes(report: Report) -> str:
    networks = [found for case, found in report["cases"].items() if case.endswith("-dnn")]
    slopes = {
        name: [found[HALVES]["sizes"][name]["mean"] for found in networks]
        for name in ("dit", "loo", "centred")
    }
    ranges = {name: f"{min(each):.1f} to {max(each):.1f}" for name, each in slopes.items()}
    return (
        "Sizes: for halves of the networks with SGD the retrained effect is on average "
        f"{ranges['centred']} times what the centred sum predicts, {ranges['dit']} times that of `dit` and "
        f"{ranges['loo']} times that of summed `loo`."
    )


PAGE = Page(
    "What a score is worth",
    "An estimate is judged by its agreement with retraining. Two things decide what that figure can be: how "
    "well retraining agrees with itself ([ceilings](../ceilings.md)), and whether the question is about one "
    "example or about many ([scores for sets](../sets.md)). This page puts both beside the estimates. All "
    "agreement is Spearman's correlation for the mean test loss over the whole run.\n\n"
    "![Left: of four networks the agreement of dit, if and leave-one-out itself with leave-one-out, and the "
    "ceiling. Right: agreement for random halves of dit, summed leave-one-out and "
    "dit:centre=0.5.](../figures/worth.svg)\n\n"
    "Dots: means over seeds; bars: deviations. For Adam and text there is [a small language "
    "model](language-model.md).",
    {
        "worth-single": Section(
            "One example",
            ("ceilings",),
            "`loo` again: exact leave-one-out against itself, its start moved by a thousandth. Ceiling: the "
            "most that an estimate can reach against one run on average. [Ceilings](ceilings.md) has all "
            "metrics, larger moves and the deviations over seeds. The convolution: 16 examples of one seed.",
            _ceilings,
        ),
        "worth-roughness": Section(
            "Learning rate and length of training",
            ("roughness",),
            lambda report: (
                "The same, from the setting `trained`: the learning rate changes at its epochs, then the "
                f"epochs at its rate. Mean over {report['seeds']} seeds, {report['runs']} runs each."
            ),
            _roughness,
        ),
        "worth-horizon": Section(
            "Horizon",
            ("trust_windows",),
            lambda report: (
                "How the agreement of `dit` with `loo` falls with the length of absence, and with the time "
                "between absence and evaluation, by epochs. Setting `trained`; mean over "
                f"{report['chosen_seeds'] + report['measured_seeds']} seeds, "
                f"{report['examples'] or 'all'} examples each."
            ),
            _horizon,
        ),
        "sets": Section(
            "Sets",
            ("sets",),
            lambda report: (
                f"Setting `trained`; predicted and retrained effects of {report['sets']} random sets, mean "
                "and deviation over seeds. `centred` is `dit:centre=0.5` for halves and `dit:centre=0.9` for "
                "sets of 90 %; beside it the mean gain over `dit` and over summed `loo` with its interval "
                "at 95 %, paired by seed. AdamW: learning rate .003."
            ),
            _sets,
            _slopes,
        ),
    },
)
