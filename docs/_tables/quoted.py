"""Figures in sentences: `<!-- figure: WHERE -->VALUE<!-- end -->`.

WHERE leads to a number of a result file: RESULT/KEY/KEY, or that and ` | FORMAT` as Python writes formats,
such as `speed/models/cnn/ratio_to_plain/dit sweep | .1f`. A percentage is `.1%`. What has to be
computed has a name in COMPUTED.
"""

import re
from collections.abc import Callable
from statistics import mean
from typing import Any

from _tables.page import load_result

FIGURE = re.compile(r"(<!-- figure: ([^>]+?) -->).*?(<!-- end -->)")


def _minilm(method: str, wins: bool = False) -> Callable[[], str]:
    def figure() -> str:
        cells = load_result("minilm")["cells"]
        pairs = [(c["detection"][method]["auc"], c["detection"]["final training loss"]["auc"]) for c in cells]
        return (
            f"{sum(a > b for a, b in pairs)} of {len(pairs)}" if wins else f"{mean(a for a, _ in pairs):.2f}"
        )

    return figure


def _rows(*statuses: str) -> str:
    """How many rows of the layers' table have one of these in some variant."""
    return str(len({row["name"] for row in load_result("torch_nn")["rows"] if row["status"] in statuses}))


def _kills(number: Callable[[dict], int]) -> Callable[[], str]:
    return lambda: str(sum(map(number, load_result("kills")["campaigns"])))


def _within_5_points(task: str) -> Callable[[], str]:
    """In how many of a task's runs the precision that `suspects` expected was at most .05 off."""

    def figure() -> str:
        rows = load_result("suspects")["tasks"][task].values()
        hits = sum(row["within_5_points"] * row["seeds"] for row in rows)
        return f"{round(hits)} of {sum(row['seeds'] for row in rows)}"

    return figure


COMPUTED: dict[str, Callable[[], str]] = {
    "minilm-dit-wins": _minilm("dit, gauss-newton", wins=True),
    "minilm-sum-wins": _minilm("final loss and dit, gauss-newton", wins=True),
    "minilm-clean-wins": _minilm("loss after a clean epoch", wins=True),
    "layers-rows": lambda: str(len(load_result("torch_nn")["kinds"])),
    "layers-refused": lambda: _rows("refused"),
    "layers-wrong": lambda: _rows("wrong", "raw error", "killed"),
    "suspects-minilm-within": _within_5_points("minilm"),
    "kills": _kills(lambda campaign: campaign["kills"]),
    "kills-lost": _kills(lambda campaign: campaign["lost_steps"]),
    "kills-wrong": _kills(lambda campaign: len(campaign["faults"])),
}


def _line(rows: list, key: str) -> Any:
    """The line of a list by its place, or the first one with these values: `workload=a&change=b`."""
    if "=" not in key:
        return rows[int(key)]
    wanted = [part.split("=", 1) for part in key.split("&")]
    return next(row for row in rows if all(str(row[name]) == text for name, text in wanted))


def value(where: str) -> str:
    """The figure as it should be written."""
    if where in COMPUTED:
        return COMPUTED[where]()
    path, _, form = where.partition(" | ")
    name, *keys = path.split("/")
    found = load_result(name)
    for key in keys:
        found = _line(found, key) if isinstance(found, list) else found[key]
    return format(found, form).replace("%", " %")


def rewritten(text: str) -> str:
    return FIGURE.sub(lambda found: f"{found[1]}{value(found[2])}{found[3]}", text)
