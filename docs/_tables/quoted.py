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


def _refused() -> str:
    report = load_result("torch_nn")
    return str(len({row["name"] for row in report["rows"] if row["status"] == "refused"}))


COMPUTED: dict[str, Callable[[], str]] = {
    "minilm-dit-wins": _minilm("dit, gauss-newton", wins=True),
    "minilm-sum-wins": _minilm("final loss and dit, gauss-newton", wins=True),
    "minilm-clean-wins": _minilm("loss after a clean epoch", wins=True),
    "layers-rows": lambda: str(len(load_result("torch_nn")["kinds"])),
    "layers-refused": _refused,
    "kills": lambda: str(sum(c["kills"] for c in load_result("kills")["campaigns"])),
    "tried": lambda: str(len(load_result("minilm_explore")["runs"][0]["tried"])),
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
