"""Two tables that the paper does not have: what of influence is the data's, and when wrong labels show."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from influencekit.metrics import kendall
from influencekit.windows import REMOVALS
from influencekit_paper.reproduce.report import Done, Figure, Line, Report, accuracy, data_name, mean_of

__all__ = ["kappa", "seeds", "windows"]

Found = Mapping[str, Any]
AGAIN = ("order", "start", "both")


def kappa(one: Sequence[str], other: Sequence[str]) -> float:
    """Cohen's kappa of two labellings: agreement beyond chance, 1 = the same, 0 = chance; NaN if constant.

    (p - c) / (1 - c), p the fraction of equal labels, c the fraction expected of independent ones.
    """
    if not (n := len(one)):
        return float("nan")
    equal = sum(a == b for a, b in zip(one, other, strict=True)) / n
    chance = sum(one.count(kind) * other.count(kind) for kind in set(one) | set(other)) / n**2
    return (equal - chance) / (1 - chance) if chance < 1 else float("nan")


def seeds(done: Done) -> Report:
    """The same examples trained on again: do their patterns and ranks stay? And in the other model?"""
    lines = []
    names = {row[:2] for row in done}
    for model, data in dict.fromkeys(row[:2] for row in done):
        first = done[model, data, "first"]
        pairs = {a: list(zip(first, done[model, data, a], strict=True)) for a in AGAIN}
        figures = [mean_of(map(_kappa, *zip(*pairs[a], strict=True))) for a in AGAIN]
        others = [m for m, d in names if d == data and m != model]
        across = [pair for m in others for pair in zip(first, done[m, data, "first"], strict=True)]
        figures.append(mean_of(_kappa(a, b) for a, b in across))
        figures += [mean_of(map(_tau, *zip(*pairs[a], strict=True))) for a in AGAIN]
        figures.append(mean_of(_tau(a, b) for a, b in across))
        lines.append(Line((model, data_name(data)), (accuracy(first), *figures, _settled(first))))
    asked = ("other order", "other start", "both", "other model")
    return Report(
        "seeds",
        "The same examples, trained on again: kappa of the patterns, tau of the whole run's scores",
        ("model", "data"),
        ("accuracy", *(f"kappa, {a}" for a in asked), *(f"tau, {a}" for a in asked), "settled, % of run"),
        lines,
        [
            "Kappa is 1 where every example has the same pattern again, 0 where no more have than by chance; "
            "tau is Kendall's tau-b of the scores of all examples that both runs have.",
            "Settled: the share of the run after which the scores of [0, t) have tau-b of at least .9 with "
            "those of the whole run, and keep it.",
        ],
    )


def windows(done: Done) -> Report:
    """AUC of flipped labels by the window's epoch and removal, over all fractions flipped."""
    lines = []
    quarters = (0, 0.25, 0.5, 0.75, 1)
    for model, setting in dict.fromkeys(row[:2] for row in done):
        mine = [each for row, found in done.items() if row[:2] == (model, setting) for each in found]
        for removal in REMOVALS:
            figures = [
                mean_of(e["each"][removal][round(q * (len(e["each"][removal]) - 1))]["auc"] for e in mine)
                for q in quarters
            ]
            lines.append(Line((model, setting, removal), (accuracy(mine), *figures)))
        for method in ("full", "if", "loo", "tracin", "gradient-norm"):
            figure = mean_of(each["found"].get(method, {}).get("auc") for each in mine)
            nothing = Figure(float("nan"), float("nan"), 0)
            lines.append(Line((model, setting, method), (accuracy(mine), *[nothing] * 4, figure)))
    return Report(
        "windows",
        "AUC of flipped labels on MNIST, 5 to 20 %, by one epoch's window; and by methods of the whole run",
        ("model", "setting", "removal or method"),
        ("accuracy", "first epoch", "at 1/4", "at 1/2", "at 3/4", "last epoch, or whole run"),
        lines,
    )


def _kappa(one: Found, other: Found) -> float:
    return kappa(*_common(one, other, "pattern"))


def _tau(one: Found, other: Found) -> float:
    x, y = (torch.tensor(values, dtype=torch.float64) for values in _common(one, other, "full"))
    return float(kendall(x, y))


def _common(one: Found, other: Found, what: str) -> tuple[list[Any], list[Any]]:
    """Values of the examples that both have, in one order."""
    mine, theirs = (dict(zip(each["ids"], each[what], strict=True)) for each in (one, other))
    ids = [name for name in mine if name in theirs]
    return [mine[name] for name in ids], [theirs[name] for name in ids]


def _settled(found: Sequence[Found]) -> Figure:
    percent = []
    for each in found:
        below = [e for e, tau in enumerate(each["settled"]) if not tau >= 0.9]
        percent.append(100 * (max(below, default=-1) + 2) / len(each["settled"]))
    return mean_of(percent, decimals=0)
