"""Colours and figures that all pictures share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "HARMFUL", "HELPFUL", "LINES", "diverging", "new_figure", "whole_numbers"]

# Okabe and Ito's colours, which the colour-blind tell apart (yellow, too pale on white, left out)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
HARMFUL, HELPFUL = COLOURS[1], COLOURS[0]
LINES = ("-", "--", "-.", ":")  # told apart without any colour


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, which no pyplot knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def diverging() -> Colormap:
    """From harmful (vermilion) over white to helpful (blue)."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = ["#7a3300", HARMFUL, "#ffffff", HELPFUL, "#003a5c"]
    return LinearSegmentedColormap.from_list("harmful to helpful", stops)


def whole_numbers(ax: Axes) -> None:
    """Ticks of the horizontal axis at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
