"""From what the cells gave to tables: mean and deviation over seeds beside the paper's figure."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

from influencekit.metrics import METRICS
from influencekit.reproduce.plan import Row
from influencekit.windows import REMOVALS

__all__ = [
    "Done", "Figure", "Line", "Report", "accuracy", "printed", "spread",
    "table1", "table2", "table3", "table4", "table5",
]  # fmt: skip

Done = Mapping[Row, list[dict[str, Any]]]  # what the cells of every row gave, a seed each

PATTERNS = ("stable", "early", "late", "fluctuating")
PAIRS = ("early-middle", "early-late", "middle-late", "early-full", "middle-full", "late-full")
WORDS = {"emnist": "kmnist (for emnist)"}


@dataclass(frozen=True)
class Figure:
    """Mean and (population) deviation over `seeds` seeds; `printed` is the paper's mean."""

    mean: float
    std: float
    seeds: int
    printed: float | None = None
    decimals: int = 2
    ties: int = 0  # seeds in which rounding decides about it

    @property
    def reached(self) -> bool:
        """Whether the mean is at least the printed figure."""
        return self.printed is not None and self.mean >= self.printed

    def __str__(self) -> str:
        """`10.25 ± 0.82 [9.06]`, the paper's figure in brackets; `~`: ties; `-` where there is nothing."""
        if not self.seeds:
            shown = "-"
        elif self.seeds == 1:
            shown = f"{self.mean:.{self.decimals}f}"
        else:
            shown = f"{self.mean:.{self.decimals}f} ± {self.std:.{self.decimals}f}"
        shown += "~" if self.ties else ""
        return shown if self.printed is None else f"{shown} [{self.printed:.{self.decimals}f}]"


@dataclass(frozen=True)
class Line:
    """One line of a table: what it is of, and a figure a column."""

    labels: tuple[str, ...]
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Report:
    """A table: `heads` name the labels, `columns` the figures; `notes` are whole sentences."""

    name: str
    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    lines: list[Line]
    notes: list[str] = field(default_factory=list)

    @property
    def compared(self) -> bool:
        """Whether the paper has figures for it."""
        return any(f.printed is not None for line in self.lines for f in line.figures)


@cache
def printed() -> dict[str, Any]:
    """The figures that the paper prints (arXiv 2502.10793), by table, as the package brings them."""
    return json.loads(files("influencekit.reproduce").joinpath("printed.json").read_text(encoding="utf-8"))


def spread(values: Iterable[float | None], printed: float | None = None, decimals: int = 2) -> Figure:
    """Of the values that are there: None and NaN do not count."""
    known = [v for v in values if v is not None and not math.isnan(v)]
    if not known:
        return Figure(math.nan, math.nan, 0, printed, decimals)
    mean = math.fsum(known) / len(known)
    variance = math.fsum((v - mean) ** 2 for v in known) / len(known)
    return Figure(mean, math.sqrt(variance), len(known), printed, decimals)


def accuracy(found: Sequence[Mapping[str, Any]]) -> Figure:
    """Test accuracy in per cent."""
    return spread((100 * each["accuracy"] for each in found), decimals=1)


def table1(done: Done) -> Report:
    """Shares of the four patterns, in per cent: by our rule, and where it was kept by significance alone."""
    paper = printed()["table_1_pattern_percent"]
    lines = []
    for (model, data), found in done.items():
        beside = dict(zip(PATTERNS, paper[model].get(data, [None] * 4), strict=True))
        for rule, name in (("p and size", "share"), ("p alone", "share_by_p")):
            kept = [each[name] for each in found if name in each]
            shares = [spread((100 * each[kind] for each in kept), beside[kind]) for kind in PATTERNS]
            if kept:
                lines.append(Line((model, WORDS.get(data, data), rule), (accuracy(found), *shares)))
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
    """Agreement with leave-one-out."""
    paper = printed()["table_2_agreement_with_loo"]
    lines = []
    for (model, data), found in done.items():
        for name in ("dit", "if"):
            beside = paper[model].get(data, {}).get(name, [None] * 4)
            figures = [
                spread((each["agreement"][name][metric] for each in found), value)
                for metric, value in zip(METRICS, beside, strict=True)
            ]
            lines.append(Line((model, data, name), (accuracy(found), *figures)))
    return Report(
        "table2", "Table II: agreement with leave-one-out, the whole run", ("model", "data", "estimator"),
        ("accuracy", *METRICS), lines, [_reached(lines, "dit"), "Jaccard: the top 30 % by signed value."],
    )  # fmt: skip


def table3(done: Done) -> Report:
    """Agreement with leave-one-out within each pattern."""
    paper = printed()["table_3_agreement_by_pattern_mnist_dnn"]
    (found,) = done.values()
    lines = []
    for kind in PATTERNS:
        count = spread((each["examples"][kind] for each in found), decimals=1)
        for name in ("dit", "if"):
            figures = [
                spread((each["agreement"].get(kind, {}).get(name, {}).get(metric) for each in found), value)
                for metric, value in zip(METRICS, paper[kind][name], strict=True)
            ]
            ties = sum(each.get("ties", {}).get(kind, {}).get(name, 0) > 0 for each in found)
            figures[-1] = replace(figures[-1], ties=ties)
            lines.append(Line((kind, name), (count, *figures)))
    share = accuracy(found)
    near = [
        f"{name} of {kind} in {line.figures[-1].ties}" for line in lines for kind, name in [line.labels]
        if line.figures[-1].ties
    ]  # fmt: skip
    return Report(
        "table3", "Table III: agreement with leave-one-out by pattern, dnn on mnist",
        ("pattern", "estimator"), ("examples", *METRICS), lines,
        [
            f"Test accuracy {share.mean:.1f} ± {share.std:.1f} %.",
            _reached(lines, "dit"),
            "A pattern with fewer than four examples in a seed has no correlation there.",
            "Jaccard: the top 30 % by signed value.",
            *([f"~: rounding decides who is in a top 30 % ({', '.join(near)} seeds)."] if near else []),
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
            figures = [spread((each[pair] for each in tau), beside[pair]) for pair in PAIRS]
            least = spread((100.0 * (min(each, key=each.get) == "early-late") for each in tau), decimals=0)
            lowest[removal] += bool(tau) and figures[1].mean == min(f.mean for f in figures)
            labels = (removal, model, WORDS.get(data, data))
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


# the place of each in the paper's order
METHODS = {
    "if": 0, "full": 1, "loo": 2, "first": 3, "middle": 4, "last": 5, "tracin": None, "gradient-norm": None,
}  # fmt: skip


def table5(done: Done) -> Report:
    """Flipped labels found among the k most negative, k their number."""
    paper = printed()["table_5_flipped_found_mnist"]
    lines: list[Line] = []
    notes = []
    shares = list(dict.fromkeys(row[2] for row in done))
    for model, setting in dict.fromkeys(row[:2] for row in done):
        rows = [(share, done[model, setting, share]) for share in shares]
        lines.append(Line((model, setting, "test accuracy, %"), tuple(accuracy(f) for _, f in rows)))
        apart = [done.get((model, setting, share, "loo")) for share, _ in rows]
        for method, place in METHODS.items():
            for removal in REMOVALS if method in ("first", "middle", "last") else ("",):
                figures = []
                for (share, found), part in zip(rows, apart, strict=True):
                    value = None if place is None else paper[share][model][place]
                    values = _scaled(part) if method == "loo" and part else _found(found, method, removal)
                    figures.append(spread(values, value))
                lines.append(Line((model, setting, f"{method} {removal}".strip()), tuple(figures)))
        if any(apart):
            notes.append(_subset(model, [each for part in apart for each in part or []]))
        said = [
            f"{line.labels[2]} {sum(f.reached for f in line.figures)}"
            for line in lines
            if line.labels[:2] == (model, setting) and line.labels[2].split()[0] in ("full", "last")
        ]
        notes.append(
            f"{model}, {setting}: at least the printed figure at so many of the {len(shares)} levels: "
            f"{', '.join(said)}."
        )
    counts = [f"{share} ({found[0]['flipped']})" for share, found in rows]
    return Report(
        "table5", "Table V: flipped labels found on MNIST, among as many of the most negative scores",
        ("model", "setting", "method"),
        tuple(counts), lines, notes,
    )  # fmt: skip


def _found(found: Sequence[Mapping[str, Any]], method: str, removal: str) -> list[float | None]:
    if not removal:
        return [each["found"].get(method, {}).get("found") for each in found]
    place = {"first": 0, "last": -1}
    counts = []
    for each in found:
        k = place.get(method, len(each["epochs"]) // 2)
        counts.append(each["each"][removal][k]["found"])
    return counts


def _scaled(found: Sequence[Mapping[str, Any]]) -> list[float]:
    """Found on a part of the examples, as if the whole had the same share."""
    return [each["found"]["loo"]["found"] / each["flipped_here"] * each["flipped"] for each in found]


def _subset(model: str, found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return f"loo of the {model}: not run."
    seeds = Counter(each["flipped"] for each in found)[found[0]["flipped"]]
    examples = found[0]["examples"]
    words = f"loo of the {model}: {seeds} seed{'s' if seeds != 1 else ''}"
    if found[0]["flipped_here"] < found[0]["flipped"]:
        both = [spread(each["found"][n]["auc"] for each in found) for n in ("loo", "full")]
        words += (
            f", {examples} of the examples, flipped ones in proportion, and the share found there times the "
            f"number flipped. On the same examples its AUC is {both[0].mean:.3f}, full DIT's "
            f"{both[1].mean:.3f}"
        )
    spearman = spread(each["agreement"]["spearman"] for each in found)
    return f"{words}; Spearman of full DIT with it {spearman}."


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
