"""Pictures of results."""

from __future__ import annotations

from typing import Any

from benchmarks.shared.odd.common import NOT_POSITIVE, some_ids
from benchmarks.shared.odd.drawing import Callee, Given, Later, The, World, callee, of
from benchmarks.shared.odd.values import Kind, number, one_of, whole
from influencekit import plot

__all__ = ["PLOTS"]


def plot_of(function: Any, usual: Given | None = None, /, **kinds: Kind | Later) -> Callee:
    return of(function, usual, f"plot.{function.__name__}", **kinds)


def timeline(every: World, given: dict[str, Any]) -> Any:
    return plot.timeline(**{"scores": every["influence"][0], **given})


count_kind = whole([1, 3], NOT_POSITIVE)
metric_kind = one_of(["spearman", "jaccard"])
of_found = {"result": Later("found"), "ax": Later()}

PLOTS: tuple[Callee, ...] = (
    plot_of(
        plot.scatter,
        {"result": The("comparison"), "estimator": "dit"},
        result=Later("comparison"),
        estimator=Later(also=(one_of(["dit", "if"]),)),
        metric=metric_kind,
        ax=Later(),
    ),
    plot_of(
        plot.agreement,
        {"result": The("comparison")},
        result=Later("comparison"),
        metric=metric_kind,
        figure=Later(),
    ),
    plot_of(plot.detection, {"result": The("found")}, **of_found),
    plot_of(plot.precision_recall, {"result": The("found")}, **of_found),
    plot_of(
        plot.extremes,
        {"scores": The("one"), "pictures": The("pictures")},
        scores=Later("one", "hole's one"),
        pictures=Later("pictures"),
        count=count_kind,
        figure=Later(),
    ),
    callee("plot.timeline", timeline, scores=Later(), count=count_kind, ax=Later(), ids=some_ids),
    plot_of(plot.predicted, {"result": The("lds")}, result=Later("lds"), figure=Later()),
    plot_of(plot.diverging, better=one_of(["lower", "higher"], none=True)),
    plot_of(
        plot.new_figure,
        {"width": 3.0, "height": 3.0},
        width=number([2.0], [0.0, -1.0, float("inf")]),
        height=number([2.0], [0.0, -1.0]),
    ),
    plot_of(plot.whole_numbers, ax=Later()),
)
