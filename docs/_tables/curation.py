"""docs/results/curation.md: what recommendations of `curate` do to data that nobody chose or judged with."""

from _tables.page import Page, Report, Section, Table, percent

FLIPS = {"0": "as it is", "0.1": "a tenth wrong"}


def _relative(value: float) -> str:
    return f"{100 * value:+.1f} %".replace("-0.0 %", "0.0 %").replace("+0.0 %", "0.0 %")


def _with_worst(found: dict[str, float]) -> str:
    return f"{_relative(found['mean'])} ({_relative(found['worst'])})"


def _known(value: float | None) -> str:
    return "-" if value is None else percent(value, 0)


def _choosers(report: Report) -> Table:
    heads = ["labels", "chooser", "drops something", "loss by what is recommended (worst)"]
    heads += [
        "worse by 1 %",
        "by the best set, always (worst)",
        "interval holds it",
        "promised too much",
        "agrees",
    ]
    heads += ["wrong labels in the best set", "trainings"]
    rows = []
    for flips, words in FLIPS.items():
        for name, found in report["flips"][flips].items():
            rows.append(
                [
                    words, f"`{name}`", f"{found['drops']} of {found['cells']}",
                    _with_worst(found["recommended"]), str(found["worse_by_1_percent"]),
                    _with_worst(found["best"]),
                    _known(found["covered"]), f"{found['promised_too_much']} of {found['stated']}",
                    _known(found["agree"]),
                    percent(found["wrong_labels"], 0) if flips != "0" else "-",
                    f"{found['trainings']:.0f}",
                ]
            )  # fmt: skip
    return Table(heads, rows)


def _workloads(report: Report) -> Table:
    names = [*report["all"]]
    rows = []
    for cell, found in report["cells"].items():
        workload, _, flips = cell.rpartition(", ")
        each = [
            f"{found[n]['drops']} of {found[n]['cells']}: {_relative(found[n]['recommended']['mean'])} "
            f"({_relative(found[n]['best']['mean'])})"
            if n in found
            else "-"
            for n in names
        ]
        rows.append([workload, FLIPS[flips], *each])
    return Table(["workload", "labels", *(f"`{name}`" for name in names)], rows)


def _notes(report: Report) -> str:
    total, unseen = report["all"]["dit"], report["unseen"].get("dit")
    covered, agree = (percent(total[name], 0) for name in ("covered", "agree"))
    over, stated = total["promised_too_much"], total["stated"]
    fresh = (
        "With seeds before 22 we saw that a set does better than the folds say, which choose with fewer "
        "examples, and let the better end of the interval go on to what the choosing examples say. On the "
        f"seeds from 22 on ({unseen['stated']} cells) the interval holds the outside effect in "
        f"{percent(unseen['covered'], 0)}, and promised too much in {unseen['promised_too_much']}. "
        if unseen and unseen["stated"]
        else ""
    )
    return (
        f"Over all {total['cells']} cells of `dit`, the interval holds the outside effect in {covered} of "
        f"the {stated} in which something was stated. It promised too much in {over} of them. {fresh}"
        "The interval is compared with other examples, which do not know the expected "
        f"effect either: where their own deviation is counted, the two agree in {agree}; of all choosers in "
        f"{percent(_of_all(report, 'agree'), 0)}, and the interval holds the outside effect in "
        f"{percent(_of_all(report, 'covered'), 0)}. Our aims "
        "were: never worse than dropping nothing by more than 1 % (missed in "
        f"{total['worse_by_1_percent']} cells, of all choosers in "
        f"{sum(found['worse_by_1_percent'] for found in report['all'].values())}), and an interval that "
        "holds the truth in 9 of 10 runs."
    )


def _of_all(report: Report, name: str) -> float:
    each = [found for found in report["all"].values() if found["stated"]]
    return float(sum(x[name] * x["stated"] for x in each) / sum(x["stated"] for x in each))


def _seeds(report: Report) -> str:
    return ", ".join(f"{case} {count}" for case, count in report["seeds"].items() if count)


def _texts(report: Report) -> str:
    return "; of MiniLM the last layer and the head are trained" if report["seeds"].get("minilm") else ""


PAGE = Page(
    "What curation is worth",
    "[Curation](../cleaning.md#how-to-read-curate) recommends what to leave out, and states its effect with "
    "an interval. Here the effect is measured on examples that nobody chose or judged with.",
    {
        "curation-choosers": Section(
            "Recommendations of each chooser",
            ("curation",),
            lambda report: (
                f"Seeds: {_seeds(report)}. Setting `trained`, 256 training examples (newsgroups 200), five "
                f"folds of 256 trusted ones, up to 2,000 others of the pool outside{_texts(report)}. Changes "
                "are relative to the outside loss: negative = better. "
                "*Recommended*: 0 where the verdict is to drop nothing. *Best set, always*: what happens to "
                "who drops the best set whatever the verdict. `dit, centred, mean` lets `dit`, "
                "`dit:centre=0.9` and their mean compete; *final loss* takes the examples of the largest "
                "loss for the most harmful."
            ),
            _choosers,
            _notes,
        ),
        "curation-workloads": Section(
            "By workload",
            ("curation",),
            "How often something is dropped, the mean change by what is recommended, and, in brackets, by "
            "the best set whatever the verdict.",
            _workloads,
        ),
    },
)
