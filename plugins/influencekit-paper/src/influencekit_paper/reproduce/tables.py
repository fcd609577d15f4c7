"""Tables I to IV: from what the cells gave to mean and deviation over seeds, beside the paper's figure."""

from collections.abc import Sequence
from dataclasses import replace

from influencekit.metrics import METRICS
from influencekit.windows import REMOVALS
from influencekit_paper.reproduce.report import (
    Done,
    Figure,
    Line,
    Report,
    accuracy,
    data_name,
    mean_of,
    printed,
)
from influencekit_paper.reproduce.runs import Found

__all__ = ["table1", "table2", "table3", "table4"]

PATTERNS = ("stable", "early", "late", "fluctuating")  # in the paper's order
PAIRS = ("early-middle", "early-late", "middle-late", "early-full", "middle-full", "late-full")


def table1(done: Done) -> Report:
    """The four patterns, in per cent of the examples: by our rule, and by significance alone."""
    paper = printed()["table_1_pattern_percent"]
    lines = []
    for (model, data), found in done.items():
        beside = dict(zip(PATTERNS, paper[model].get(data, [None] * 4), strict=True))
        for rule, name in (("p and size", "share"), ("p alone", "share_by_p")):
            fractions = [each[name] for each in found if name in each]
            percent = [mean_of((100 * each[kind] for each in fractions), beside[kind]) for kind in PATTERNS]
            if fractions:
                lines.append(Line((model, data_name(data), rule), (accuracy(found), *percent)))
    said = []
    for rule in ("p and size", "p alone"):
        of = [line.figures[1:] for line in lines if line.labels[2] == rule]
        first = sum(max(figures, key=lambda f: f.mean) is figures[0] for figures in of)
        said.append(f"by {rule} in {first} of {len(of)} rows")
    return Report(
        "table1", "Table I: patterns of influence over time, % of the examples", ("model", "data", "rule"),
        ("accuracy", *PATTERNS), lines,
        [
            f"Stable influencers are the largest group {', '.join(said)}.",
            "p alone is the paper's rule as it is printed: a trend is significant (p < .05). p and size is "
            "ours: its line also moves by a standard deviation or more.",
            "The heads of the paper's columns are lost in the text we have. It says that stable influencers "
            "dominate, so its first column is stable; the order of the other three is not known, and they "
            "are in brackets in the order in which they are printed.",
            _stand_in(),
        ],
    )  # fmt: skip


def table2(done: Done) -> Report:
    """Agreement with leave-one-out; beside its ceiling where there are cells of that."""
    paper = printed()["table_2_agreement_with_loo"]
    lines = []
    for model, data in dict.fromkeys(row[:2] for row in done):
        found, ceilings = done[model, data], done.get((model, data, "ceiling"))
        for name in ("dit", "if"):
            beside = paper[model].get(data, {}).get(name, [None] * 4)
            figures = [
                mean_of((each["agreement"][name][metric] for each in found), value)
                for metric, value in zip(METRICS, beside, strict=True)
            ]
            agreed = [each["agreement"] for each in found]
            more = [] if ceilings is None else _of_ceiling(agreed, ceilings, name)
            lines.append(Line((model, data, name), (accuracy(found), *figures, *more)))
        if ceilings is not None:
            lines.append(Line((model, data, "loo again"), (accuracy(ceilings), *_again(ceilings))))
    beside = any(len(row) > 2 for row in done)
    return Report(
        "table2", "Table II: agreement with leave-one-out, the whole run", ("model", "data", "estimator"),
        ("accuracy", *METRICS, *(_CEILING if beside else ())), lines,
        [_reached(lines, "dit"), "Jaccard: the top 30 % by signed value.", *([_LOO_AGAIN] if beside else [])],
    )  # fmt: skip


_CEILING = ("ceiling", "spearman / ceiling")
_LOO_AGAIN = (
    "loo again: leave-one-out of runs whose start is moved a little, against that of the run; ceiling: the "
    "Spearman correlation that the expected effect itself would reach."
)


def _of_ceiling(agreements: Sequence[Found], ceilings: Sequence[Found], name: str) -> list[Figure]:
    """The ceiling of Spearman's correlation, and the part of it that an estimator reaches, seed by seed;
    seeds without a figure do not count."""
    pairs = [
        (of[name]["spearman"], each["ceiling"]["spearman"])
        for of, each in zip(agreements, ceilings, strict=True)
        if of and each
    ]
    return [mean_of(most for _, most in pairs), mean_of(r / most for r, most in pairs if most > 0)]


def _again(ceilings: Sequence[Found]) -> list[Figure]:
    """The row of leave-one-out itself: its agreement with itself, the ceiling, and nothing."""
    known = [each for each in ceilings if each]
    again = [mean_of(each["again"][metric] for each in known) for metric in METRICS]
    nothing = Figure(float("nan"), float("nan"), 0)
    return [*again, mean_of(each["ceiling"]["spearman"] for each in known), nothing]


def table3(done: Done) -> Report:
    """Agreement with leave-one-out within each pattern; beside its ceiling where there are cells of that."""
    paper = printed()["table_3_agreement_by_pattern_mnist_dnn"]
    found, *ceilings = done.values()
    lines = []
    for kind in PATTERNS:
        count = mean_of((each["examples"][kind] for each in found), decimals=1)
        for name in ("dit", "if"):
            figures = [
                mean_of((each["agreement"].get(kind, {}).get(name, {}).get(metric) for each in found), value)
                for metric, value in zip(METRICS, paper[kind][name], strict=True)
            ]
            ties = sum(each.get("ties", {}).get(kind, {}).get(name, 0) > 0 for each in found)
            figures[-1] = replace(figures[-1], ties=ties)
            for cells in ceilings:
                agreed = [each["agreement"].get(kind, {}) for each in found]
                figures += _of_ceiling(agreed, [each["patterns"].get(kind, {}) for each in cells], name)
            lines.append(Line((kind, name), (count, *figures)))
        for cells in ceilings:
            again = _again([each["patterns"].get(kind, {}) for each in cells])
            lines.append(Line((kind, "loo again"), (count, *again)))
    correct = accuracy(found)
    near = [
        f"{name} of {kind} in {ties}" for line in lines for kind, name in [line.labels]
        if (ties := line.figures[len(METRICS)].ties)
    ]  # fmt: skip
    return Report(
        "table3", "Table III: agreement with leave-one-out by pattern, dnn on mnist",
        ("pattern", "estimator"), ("examples", *METRICS, *(_CEILING if ceilings else ())), lines,
        [
            f"Test accuracy {correct.mean:.1f} ± {correct.std:.1f} %.",
            _reached(lines, "dit"),
            "A pattern with fewer than four examples in a seed has no correlation there.",
            "Jaccard: the top 30 % by signed value.",
            *([f"~: rounding decides who is in a top 30 % ({', '.join(near)} seeds)."] if near else []),
            *([_LOO_AGAIN] if ceilings else []),
        ],
    )  # fmt: skip


def table4(done: Done) -> Report:
    """Kendall's tau-b between stages, under each removal, and how often early-late is the lowest."""
    paper = printed()["table_4_kendall_between_stages"]
    lines, lowest, failed = [], dict.fromkeys(REMOVALS, 0), []
    for removal in REMOVALS:
        for (model, data), found in done.items():
            beside = dict(zip(PAIRS, paper[model][data], strict=True))
            tau = [each["tau"][removal] for each in found if "tau" in each]
            figures = [mean_of((each[pair] for each in tau), beside[pair]) for pair in PAIRS]
            least = mean_of((100.0 * (min(each, key=each.get) == "early-late") for each in tau), decimals=0)
            lowest[removal] += bool(tau) and figures[1].mean == min(f.mean for f in figures)
            labels = (removal, model, data_name(data))
            lines.append(Line(labels, (accuracy(found), *figures, least)))
            if len(tau) < len(found) and removal == REMOVALS[0]:
                failed.append(f"{model} on {data}: {len(found) - len(tau)} of {len(found)}")
    said = ", ".join(f"{count} of {len(done)} rows ({removal})" for removal, count in lowest.items())
    return Report(
        "table4", "Table IV: Kendall's tau-b between the stages of training", ("removal", "model", "data"),
        ("accuracy", *PAIRS, "early-late lowest, % of runs"), lines,
        [
            f"Early-late is the lowest of the six means in {said}.",
            *([f"Runs whose loss does not fall have no stages: {'; '.join(failed)}."] if failed else []),
            "The paper defines the window's score by global removal; the other two are what else "
            "'without it in this stage' can mean.",
            _stand_in(),
        ],
    )  # fmt: skip


def _stand_in() -> str:
    return (
        "EMNIST letters are not bundled; kmnist, 2000 images of the Kuzushiji letters o and ki, stands in, "
        "with the learning rates of EMNIST. Its figures are not comparable one by one."
    )


def _reached(lines: Sequence[Line], estimator: str) -> str:
    figures = [
        f for line in lines if line.labels[-1] == estimator for f in line.figures if f.printed is not None
    ]
    reached = sum(f.reached for f in figures)
    rounded = sum(f.seeds > 0 and round(f.mean, f.decimals) >= (f.printed or 0) for f in figures)
    return (
        f"{estimator} reaches the printed figure in {reached} of {len(figures)} cells, rounded as the paper "
        f"rounds in {rounded}."
    )
