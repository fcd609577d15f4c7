"""Plots: xarray in, matplotlib Axes out. matplotlib is imported where something is drawn.

Every function draws on the Axes (or Figure) it is given and never touches pyplot's current figure or a file:
`plot.scatter(result, "dit").figure.savefig("dit.png")`. What it cannot draw is an `InputError`.
"""

from influencekit.plot.agreement import agreement, scatter
from influencekit.plot.ceiling import ceiling
from influencekit.plot.detection import detection, precision_recall
from influencekit.plot.examples import extremes, timeline
from influencekit.plot.predicted import predicted
from influencekit.plot.style import COLOURS, diverging, name_text, new_figure, whole_numbers
from influencekit.plot.trust import trust_by_window

__all__ = [
    "COLOURS",
    "agreement",
    "ceiling",
    "detection",
    "diverging",
    "extremes",
    "name_text",
    "new_figure",
    "precision_recall",
    "predicted",
    "scatter",
    "timeline",
    "trust_by_window",
    "whole_numbers",
]
