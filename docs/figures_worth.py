"""The picture of results/what-a-score-is-worth.md, of the result files; `docs/figures.py` draws it.

Left: one example, the networks of the setting `trained`: what `loo` reaches against itself, the ceiling, and
the estimates. Right: halves of the data.
"""

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
INK, BAND, LOO = "#1f2328", "#d0d7de", "#6e7781"
COLOURS = {"dit": "#0072B2", "if": "#CC79A7", "loo": LOO, "centred": "#D55E00"}


def draw(folder: Path, **save: Any) -> list[Path]:
    """worth.svg."""
    figure = Figure(figsize=(9.2, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    _single(left, _result("ceilings"))
    _halves(right, _result("sets"))
    figure.savefig(folder / "worth.svg", **save)
    return [folder / "worth.svg"]


def _result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _single(ax: Axes, report: dict[str, Any]) -> None:
    found = {k: v["trained"] for k, v in report["workloads"].items() if k.endswith("-dnn") and "trained" in v}
    for y, figures in enumerate(found.values()):
        x = figures["moved"]["0.001"]
        again, ceiling = (x[k]["spearman"]["mean"] for k in ("agreement", "ceiling"))
        ax.barh(y, 1 - ceiling, 0.62, left=ceiling, color=BAND, label="above the ceiling" if not y else None)
        ax.plot([again, again], [y - 0.31, y + 0.31], color=LOO, lw=2.5, label="loo again" if not y else None)
        for name in ("dit", "if"):
            value = x["estimators"][name]["loo"]["spearman"]["mean"]
            ax.plot(value, y, "o", ms=8, color=COLOURS[name], label=name if not y else None)
    _dress(ax, [_words(k, v["accuracy"]["mean"]) for k, v in found.items()], "one example: Spearman with loo")


def _halves(ax: Axes, report: dict[str, Any]) -> None:
    found = {k: v for k, v in report["cases"].items() if "AdamW" not in k}
    for y, figures in enumerate(found.values()):
        for dodge, name in zip((-0.18, 0, 0.18), ("loo", "dit", "centred"), strict=True):
            lds = figures["0.5"]["lds"][name]
            ax.errorbar(
                lds["mean"], y + dodge, xerr=lds["std"], fmt="o", ms=7, lw=1.5, color=COLOURS[name],
                label={"loo": "loo, summed", "centred": "dit:centre=0.5"}.get(name, name) if not y else None,
            )  # fmt: skip
    _dress(ax, [_words(k, v["accuracy"]["mean"]) for k, v in found.items()], "random halves: Spearman (LDS)")


def _words(name: str, accuracy: float) -> str:
    return f"{name}\n{100 * accuracy:.0f} % accurate"


def _dress(ax: Axes, names: list[str], words: str) -> None:
    ax.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6), yticks=range(len(names)))
    ax.set_yticklabels(names, fontsize=8.5)
    ax.set_title(words, loc="left", fontsize=10.5, color=INK)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color=BAND, lw=0.6)
    ax.set_axisbelow(True)
    ax.legend(loc="upper center", bbox_to_anchor=(0.42, -0.1), ncols=4, fontsize=8.5, frameon=False)
