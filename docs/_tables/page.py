"""What a page of docs/results is made of: sections, each with the words and the table of its result files."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from _tables.sources import SOURCES

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
WARNING = "<!-- generated: python docs/tables.py -->"

Report = dict[str, Any]
Words = str | Callable[..., str]  # callable: of the reports


@cache
def load_result(name: str) -> Report:
    """benchmarks/results/NAME.json."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def percent(fraction: float, digits: int = 1) -> str:
    return f"{100 * fraction:.{digits}f} %"


def link(page: Path, target: str, words: str) -> str:
    """A link from a page to a file named from the root."""
    return f"[{words}]({Path(os.path.relpath(ROOT / target, page.parent)).as_posix()})"


@dataclass(frozen=True)
class Table:
    heads: Sequence[str]
    rows: Iterable[Sequence[str]]

    def __str__(self) -> str:
        lines = [self.heads, ["---"] * len(self.heads), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True)
class Section:
    """A question that was measured. `table` and callable words get the reports of `results`, in order."""

    title: str
    results: tuple[str, ...]
    text: Words
    table: Callable[..., Table] | None = None
    notes: Words = ""  # below the table

    def body(self, page: Path) -> str:
        """What was measured and how, with which command on which machine, and the table."""
        reports = [load_result(name) for name in self.results]
        parts = [_said(self.text, reports), self._origin(page)]
        if self.table:
            parts.append(str(self.table(*reports)))
        parts.append(_said(self.notes, reports))
        return "\n\n".join(part for part in parts if part)

    def _origin(self, page: Path) -> str:
        if not self.results:
            return ""
        commands = dict.fromkeys(f"`{c}`" for name in self.results for c in SOURCES[name].commands)
        figures = [link(page, f"benchmarks/results/{name}.json", f"{name}.json") for name in self.results]
        return (
            f"{', '.join(commands)}; {_machine(load_result(self.results[0]))}; figures: {', '.join(figures)}."
        )


@dataclass(frozen=True)
class Page:
    title: str
    text: str
    sections: dict[str, Section] = field(default_factory=dict)  # by the name for `<!-- table: NAME -->`

    def written(self, page: Path) -> str:
        parts = [f"# {self.title}", WARNING, self.text]
        for section in self.sections.values():
            parts += [f"## {section.title}", section.body(page)]
        return "\n\n".join(parts) + "\n"


def _said(words: Words, reports: list[Report]) -> str:
    return words if isinstance(words, str) else words(*reports)


def _machine(report: Report) -> str:
    """The machine in words, with the version of torch."""
    found = report if "machine" in report else report["campaigns"][0]
    words = found["machine"]
    return words if "torch" in words or "torch" not in found else f"{words}, torch {found['torch']}"
