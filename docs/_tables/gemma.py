"""docs/results/gemma.md: adapters of Gemma 3 270M, trained with AdamW."""

from collections.abc import Callable
from math import exp
from statistics import fmean

from _tables.page import Page, Report, Section, Table

_STAGES = {
    "load": "loading the model",
    "loop": "the loop alone",
    "tape": "the loop with a tape",
    "open": "`ik.open`",
    "sweep": "the first sweep, with its checks",
    "sweep again": "another sweep",
}


def _setting(report: Report) -> str:
    kinds = ", ".join(f"{count} of *{name}*" for name, count in report["kinds"].items())
    return (
        "Gemma 3 270M in float32, de-quantised from 4 bits, its vocabulary cut to the "
        f"{report['pieces']} pieces that occur in the texts, so that two shared CPU cores can retrain it. "
        f"LoRA of rank {report['rank']} on the queries and values of the last {report['blocks']} of 18 "
        f"blocks: {report['trained']:,} trained weights. {report['texts']} texts of at most "
        f"{report['tokens']} pieces "
        f"({kinds}), one epoch of {report['steps']} steps of {report['batch']}; AdamW, learning rate "
        f"{report['lr']:g} after two steps of warm-up, then linearly down, eps {report['eps']:g}. Losses are "
        "in nats a piece; perplexity is their exponential."
    )


def _losses(report: Report) -> Table:
    rows = []
    for name, (before, after) in report["losses"].items():
        if name == "accuracy":
            rows.append(
                ["*training texts: pieces rightly predicted*", "", "", f"{before:.1%}", f"{after:.1%}"]
            )
        else:
            words = "*training texts, mean*" if name == "train" else name
            rows.append(
                [words, *(f"{x:.3f}" for x in (before, after)), *(f"{exp(x):.1f}" for x in (before, after))]
            )
    return Table(["asked", "loss before", "after", "perplexity before", "after"], rows)


def _costs(report: Report) -> Table:
    costs, loop = report["costs"], report["costs"]["loop"]
    rows = []
    for name, words in _STAGES.items():
        one = costs[name]
        ratio = "" if name == "load" else f"{one['seconds'] / loop['seconds']:.2f}"
        memory = f"{one['peak_gb']:.2f}"
        rows.append(
            [words, f"{one['seconds']:.1f}", ratio, memory, f"{one['peak_gb'] / loop['peak_gb']:.2f}"]
        )
    return Table(["stage", "CPU seconds", "of the loop", "peak memory, GB", "of the loop"], rows)


def _top(report: Report) -> Table:
    heads = ["asked", "planted texts among the ten", "sum of the ten scores", "trained without the ten"]
    rows = []
    for name, one in report["top ten"].items():
        count = f"{sum(one['planted'])} of {one['of']}"
        rows.append([name, count, f"{one['estimate']:+.3f}", f"{one['retrained']:+.3f}"])
    return Table(heads, rows)


def _pieces(report: Report) -> Table:
    heads = ["asked", "the first three", "sum of the ten scores", "trained without the ten"]
    rows = []
    for name, one in report["top pieces"].items():
        first = "; ".join(f"*{x['piece'].strip()}* in “{x['text']}”" for x in one["pieces"][:3])
        rows.append([name, first, f"{one['estimate']:+.3f}", f"{one['retrained']:+.3f}"])
    return Table(heads, rows)


def _differences(report: Report) -> Table:
    heads, columns = ["text"], [report["differences"]["texts"]]
    for key, words in (("differences", "float32"), ("in float64", "float64")):
        for step, gaps in report.get(key, {"gaps": {}})["gaps"].items():
            heads.append(f"{words}, step {step}")
            columns.append([f"{gap:.1e}" for gap in gaps])
    return Table(heads, [list(row) for row in zip(*columns, strict=True)])


def _by_question(estimators: Report, questions: list[str], first: list[list[str]]) -> Table:
    rows = [*first]
    for name, one in estimators.items():
        cell = f"{one['mean']:.3f} [{one['low']:.2f}, {one['high']:.2f}]"
        each = [f"{one['by question'][q]:.2f}" for q in questions]
        rows.append([f"`{name}`", cell, *each, f"{one['seconds']:.0f}"])
    return Table(["score", "mean LDS", *questions, "CPU seconds"], rows)


def _lds(report: Report) -> Table:
    again = []
    if "again" in report:
        values = report["again"]["agreement"]
        again = [["*retrained again*", f"{fmean(values):.3f}", *[f"{x:.2f}" for x in values], ""]]
    return _by_question(report["lds"]["estimators"], [*report["top ten"]], again)


def _default_eps(report: Report) -> Table:
    return _by_question(report["default eps"]["estimators"], [*report["top ten"]], [])


def _again(report: Report) -> str:
    """What is said of retraining again."""
    if "again" not in report:
        return "No ceiling was measured in this result."
    return (
        f"*Retrained again*: the first {report['again']['sets']} halves trained from a start that is moved "
        "by a thousandth, against the same halves from the own start. The ceiling, what the expected effect "
        f"itself would reach against one run, is {report['again']['ceiling']:.3f}."
    )


def _if_measured(title: str, key: str, text: str, table: Callable[[Report], Table]) -> Section:
    """A section of a part that a result may lack."""
    return Section(
        title,
        ("gemma",),
        lambda report: text if key in report else "Not measured in this result.",
        lambda report: table(report) if key in report else Table(["not measured"], []),
    )


PAGE = Page(
    "Adapters of Gemma 3 270M",
    "Which texts made a fine-tuned language model say this, and does retraining agree? What it costs. "
    "[Language models](../language-models.md) says how it is done.",
    {
        "gemma": Section("What was trained", ("gemma",), _setting, _losses),
        "gemma-top": Section(
            "Without the ten texts that helped most",
            ("gemma",),
            "Of each question the ten texts with the highest scores of `dit`, and one training without all "
            "ten: the change of the question's loss. Ten texts at once are no small change, for which first "
            "order is made: sign and order of size are what to look at.",
            _top,
        ),
        "gemma-pieces": Section(
            "Without the ten pieces that helped most",
            ("gemma",),
            "The same of single pieces of texts, in “The river Orvel reaches the *marsh* of Tamsa.” that it "
            "is *marsh* that follows: the ten with the highest scores (`parts=True`), and one training in "
            "which the losses of these ten count nothing.",
            _pieces,
        ),
        "gemma-lds": Section(
            "Random halves",
            ("gemma",),
            lambda report: (
                f"{report['sets']} random halves of the texts: the rank correlation of the predicted with "
                f"the retrained losses (LDS) with its 95 % interval, and by question. {_again(report)} "
                "`dit:centre=0.5` is `dit` of the run in which every text counts half. BM25 sees words only."
            ),
            _lds,
        ),
        "gemma-default-eps": Section(
            "With AdamW's default eps",
            ("gemma",),
            lambda report: (
                f"The same with eps {report['default eps']['eps']:g} in place of {report['eps']:g}, on "
                f"{report['default eps']['sets']} halves. Training ends at a loss of "
                f"{report['default eps']['losses']['train'][1]:.3f} and an accuracy of "
                f"{report['default eps']['losses']['accuracy'][1]:.1%}. AdamW's steps are then nearly signs "
                "of the gradient: scores are the derivative of the run, and say little of removal."
            ),
            _default_eps,
        ),
        "gemma-differences": _if_measured(
            "Against central differences",
            "differences",
            "Scores of `dit` for the six questions against central differences of whole trainings in the "
            "weight of a text: the relative gap. *Step*: weights 1 + step and 1 - step.",
            _differences,
        ),
        "gemma-cost": _if_measured(
            "What it costs",
            "costs",
            "CPU seconds on one thread, and the peak of the resident memory during each stage, Python and "
            "torch included. Recording and the first sweep hold derivatives against differences in "
            "float64, on a copy of the model: a cost that does not grow with the run.",
            _costs,
        ),
    },
)
