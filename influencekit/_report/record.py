"""What a report shows, as plain frozen data: every number on the page stands here once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Agreement", "Content", "Curve", "Example", "Fact", "Point", "Record", "Retrained", "Words"]


@dataclass(frozen=True)
class Content:
    """What an example looks like. `kind` is picture (a PNG in base 64), text, tokens, row (a list of numbers
    or texts, named by `Record.columns`), wave (heights from -100 to 100) or none. `note`: what of
    it is not shown."""

    kind: str
    value: Any = None
    width: int = 0
    height: int = 0
    note: str | None = None


@dataclass(frozen=True)
class Retrained:
    """The exact effect of removal, found by retraining, and an interval where runs were repeated."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Example:
    """A training example. `row` is its position in the data, `rank` 1 for the first end (most harmful).
    `parts`: (text, score) of its parts, such as tokens."""

    id: str
    row: int
    label: str | None
    prediction: str | None
    loss: float | None
    score: float | None
    rank: int | None
    standard_error: float | None
    windows: tuple[float | None, ...]
    pattern: str | None
    retrained: Retrained | None
    suspicion: float | None
    suspicion_rank: int | None
    issue_score: float | None
    is_issue: bool
    marks: tuple[str, ...]
    notes: tuple[tuple[str, str], ...]
    content: Content | None
    parts: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Point:
    """A test example, and at most ten links: (place of a training example among those shown, its score)."""

    id: str
    label: str | None
    prediction: str | None
    loss: float | None
    links: tuple[tuple[int, float], ...]
    content: Content | None


@dataclass(frozen=True)
class Fact:
    """A row of the header or of the last section: what, and its value in words."""

    name: str
    value: str


@dataclass(frozen=True)
class Curve:
    """The mean training loss of steps, thinned to a few hundred: (step, loss)."""

    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Agreement:
    """Estimates beside retraining: how many examples, and (metric, agreement, ceiling or None)."""

    count: int
    metrics: tuple[tuple[str, float | None, float | None], ...]
    note: str


@dataclass(frozen=True)
class Words:
    """The words of this query: what a negative and a positive effect of removal are called, what removal does
    then, and what the number is. `first` is the sign (-1 or 1) of the end that is shown first."""

    negative: str
    positive: str
    query: str
    unit: str
    first: int


@dataclass(frozen=True)
class Record:
    """All of a report. `count` examples were scored of `total`; `examples` are those on the page, by rank.
    `numbers`: labels and predictions are those of a regression, and no classes."""

    title: str
    key: str
    words: Words
    warnings: tuple[str, ...]
    verdicts: tuple[str, ...]
    facts: tuple[Fact, ...]
    made: tuple[Fact, ...]
    command: str | None
    total: int
    count: int
    left_out: str
    windows: tuple[tuple[int, int], ...]
    windows_note: str
    span: str
    numbers: bool
    columns: tuple[str, ...]
    mark_names: tuple[str, ...]
    examples: tuple[Example, ...]
    points: tuple[Point, ...]
    points_note: str
    curve: Curve | None
    agreement: Agreement | None
