"""A table that is not printed yet: figures over seeds beside the paper's, in lines with labels."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from influencekit_paper.reproduce.plan import Row

__all__ = ["Done", "Figure", "Line", "Report", "accuracy", "data_name", "mean_of", "printed"]

Done = Mapping[Row, list[dict[str, Any]]]  # what the cells of every row gave, a seed each


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

    @property
    def cells(self) -> list[list[str]]:
        """Its text: the heads, then a row for each line."""
        return [[*self.heads, *self.columns], *([*x.labels, *map(str, x.figures)] for x in self.lines)]


@cache
def printed() -> dict[str, Any]:
    """The figures that the paper prints (arXiv 2502.10793), by table, as the package brings them."""
    file = files("influencekit_paper.reproduce").joinpath("printed.json")
    return json.loads(file.read_text(encoding="utf-8"))


def mean_of(values: Iterable[float | None], printed: float | None = None, decimals: int = 2) -> Figure:
    """Of the values that are there: None and NaN do not count."""
    known = [v for v in values if v is not None and not math.isnan(v)]
    if not known:
        return Figure(math.nan, math.nan, 0, printed, decimals)
    mean = math.fsum(known) / len(known)
    variance = math.fsum((v - mean) ** 2 for v in known) / len(known)
    return Figure(mean, math.sqrt(variance), len(known), printed, decimals)


def accuracy(found: Sequence[Mapping[str, Any]]) -> Figure:
    """Test accuracy in per cent."""
    return mean_of((100 * each["accuracy"] for each in found), decimals=1)


def data_name(data: str) -> str:
    """A data set of the paper in a table's words: kmnist stands in for emnist."""
    return "kmnist (for emnist)" if data == "emnist" else data
