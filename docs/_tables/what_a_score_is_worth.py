"""docs/results/what-a-score-is-worth.md: what can be reached and what is, for one example and for sets."""

from _tables.page import Page, Report, Section, Table, percent

HALVES, NINE_TENTHS = "0.5", "0.9"


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
    "Dots: means over seeds; bars: deviations.",
    {
        "worth-single": Section(
            "One example",
            ("ceilings",),
            "`loo` again: exact leave-one-out against itself, its start moved by a thousandth. Ceiling: the "
            "most that an estimate can reach against one run on average. [Ceilings](ceilings.md) has all "
            "metrics, larger moves and the deviations over seeds.",
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
