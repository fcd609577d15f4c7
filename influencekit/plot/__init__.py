"""Plots: xarray in, matplotlib Axes out. matplotlib is imported where something is drawn.

Every function draws on the Axes (or Figure) it is given and never touches pyplot's current figure or a file:
`plot.scatter(result, "dit").figure.savefig("dit.png")`. What it cannot draw is an `InputError`.
"""

from influencekit.plot.agreement import agreement, scatter
from influencekit.plot.detection import detection, precision_recall
from influencekit.plot.dynamics import pattern_lines, pattern_map, stage_matrix, stages
from influencekit.plot.evaluation import brittleness, predicted, taylor
from influencekit.plot.examples import extremes, timeline
from influencekit.plot.style import COLOURS, diverging, new_figure, whole_numbers

__all__ = [
    "COLOURS",
    "agreement",
    "brittleness",
    "detection",
    "diverging",
    "extremes",
    "new_figure",
    "pattern_lines",
    "pattern_map",
    "precision_recall",
    "predicted",
    "scatter",
    "stage_matrix",
    "stages",
    "taylor",
    "timeline",
    "whole_numbers",
]
