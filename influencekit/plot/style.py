"""Colours and figures that all pictures share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from influencekit._arguments import one_of, real_number, short, whole_number
from influencekit._direction import Better
from influencekit._escape import shown as escaped
from influencekit.errors import InputError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "LINES",
    "axes_of",
    "figure_for",
    "diverging",
    "figure_of",
    "line_look",
    "name_text",
    "mean_over",
    "mean_text",
    "new_figure",
    "side_colour",
    "subject",
    "whole_numbers",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's colours, which the colour-blind tell apart, without yellow, too pale on white."""
HARMFUL, HELPFUL = COLOURS[1], COLOURS[0]
LOWERS, RAISES = COLOURS[3], COLOURS[2]  # where neither way is better, neither has the colour of harm
LINES = ("-", "--", "-.", ":")  # told apart without any colour


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, which no pyplot knows of.

    Example:

        >>> from influencekit.plot import new_figure
        >>> axes = new_figure(4.0, 3.0).subplots()
    """
    from matplotlib.figure import Figure

    width, height = (real_number(n, x, above=0, most=1000) for n, x in (("width", width), ("height", height)))
    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def axes_of(ax: Any, width: float, height: float) -> Axes:
    """The Axes that were given, or new ones of this size. Errors: what is given is none."""
    from matplotlib.axes import Axes

    if ax is None:
        return new_figure(width, height).subplots()
    if not isinstance(ax, Axes):
        raise InputError(f"ax: expected the Axes of matplotlib to draw on, got {short(ax)}")
    return ax


def figure_for(figure: Any, width: float, height: float) -> Figure:
    """The Figure that was given, or a new one of this size. Errors: what is given is none."""
    from matplotlib.figure import FigureBase

    if figure is None:
        return new_figure(width, height)
    if not isinstance(figure, FigureBase):
        raise InputError(f"figure: expected a Figure of matplotlib, got {short(figure)}")
    return figure  # type: ignore[return-value]


def figure_of(axes: Axes | list[Axes]) -> Figure:
    """The figure on which these axes stand."""
    found = (axes[0] if isinstance(axes, list) else axes).get_figure(root=True)
    assert found is not None
    return found


def subject(attrs: Mapping[Any, Any]) -> str:
    """What a picture is about: the store of a run, if the result names one, or its workload."""
    return str(attrs.get("store", attrs.get("workload", "")))


def name_text(name: object, most: int = 24) -> str:
    """A name from elsewhere (an id, a class, a path) as the text of a picture: matplotlib reads it as it is.

    Of a longer one the middle is left out, since legends take their room from the picture. A `$` begins no
    formula, and a name that is empty or begins with `_`, which legends leave out, stays in.

    Errors: `InputError` where `most`, the number of characters, is below 3.

    Example:

        >>> from influencekit.plot import name_text
        >>> name_text("https://example.org/images/000123.png", 16)
        'https://…123.png'
    """
    text, most = escaped(name), whole_number("name_text: most", most, 3)
    if len(text) > most:
        text = f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"
    text = f" {text}" if text.startswith("_") else text or '""'
    return text.replace("$", r"\$")


def line_look(k: int, count: int) -> dict[str, Any]:
    """Colour, dashes and width of line k of so many; the first is the widest, so that none hides another."""
    return {
        "color": COLOURS[k % len(COLOURS)],
        "linestyle": LINES[(k + k // len(COLOURS)) % len(LINES)],
        "linewidth": 1.4 + 1.8 * (1 - (k + 1) / count),
    }


def mean_over(values: xr.DataArray, dims: tuple[str, ...]) -> np.ndarray:
    """The mean [dims] over all other dimensions, what is not a number left out."""
    return values.mean([d for d in values.dims if d not in dims], skipna=True).transpose(*dims).values


def mean_text(values: xr.DataArray) -> str:
    """The mean; with its deviation over seeds, where there are several: `0.912 ± 0.034`."""
    if values.sizes.get("seed", 1) == 1:
        return f"{float(values.mean()):.3f}"
    each = values.mean([d for d in values.dims if d != "seed"], skipna=True)
    return f"{float(each.mean()):.3f} ± {float(each.std()):.3f}"


def side_colour(sign: int, better: Better | None) -> str:
    """The colour of effects of this sign: vermilion = harmful, blue = helpful; pink, green where neither."""
    harm_first = {"lower": (HARMFUL, HELPFUL), "higher": (HELPFUL, HARMFUL)}
    negative, positive = harm_first[better] if better else (LOWERS, RAISES)
    return positive if sign > 0 else negative


def diverging(better: Better | None = "lower") -> Colormap:
    """From negative over white to positive effects, in the colours of `side_colour`, darker at the ends.

    What has no query (a correlation) is drawn as if lower were better: vermilion = negative.

    Example:

        >>> from influencekit.plot import diverging
        >>> len(diverging("lower")(0.5))  # red, green, blue, alpha
        4
    """
    if better is not None:
        one_of("better", better, ("lower", "higher"))
    from matplotlib.colors import LinearSegmentedColormap

    dark = {HARMFUL: "#7a3300", HELPFUL: "#003a5c", LOWERS: "#7a2e5a", RAISES: "#00503a"}
    negative, positive = (side_colour(sign, better) for sign in (-1, 1))
    stops = [dark[negative], negative, "#ffffff", positive, dark[positive]]
    return LinearSegmentedColormap.from_list("negative to positive effects", stops)


def whole_numbers(ax: Axes) -> None:
    """Ticks of the horizontal axis at whole numbers only.

    Errors: none; `ax` is changed in place.

    Example:

        >>> from influencekit.plot import new_figure, whole_numbers
        >>> axes = new_figure(4.0, 3.0).subplots()
        >>> whole_numbers(axes)
    """
    from matplotlib.ticker import MaxNLocator

    ax = axes_of(ax, 1, 1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
