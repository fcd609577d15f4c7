"""The picture of the README, in light and dark colours: every estimate of the default run against retraining.

`docs/figures.py` draws it. The run is that of the README's first command, `influencekit compare`.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import influencekit as ik

RUN = "mnist-1v7-dnn:setting=trained"
SCALE, UNIT = 1e3, "× 10⁻³"
MIDDLE = 0.103  # half the width of the part that is drawn larger, after scaling; no dot is on its edge
COLOURS = {  # ink, faint lines, paper, helpful, harmful
    "light": ("#1f2328", "#8c959f", "#ffffff", "#0072B2", "#D55E00"),
    "dark": ("#e6edf3", "#6e7681", "#0d1117", "#56B4E9", "#FF8A3D"),
}


def draw(folder: Path, **save) -> list[Path]:
    """agreement-light.svg and agreement-dark.svg, after running the comparison once."""
    result = ik.compare(RUN, ["dit"], reference="loo")
    drawn = [folder / f"agreement-{scheme}.svg" for scheme in COLOURS]
    for scheme, path in zip(COLOURS, drawn, strict=True):
        picture(result, *COLOURS[scheme]).savefig(path, **save)
    return drawn


def picture(result, ink: str, faint: str, paper: str, helpful: str, harmful: str) -> Figure:
    """`result`: what `ik.compare` returned. One point a training example, and the middle drawn larger."""
    estimate, truth = SCALE * result.influence.squeeze().sel(estimator=["dit", "loo"]).values
    figure = Figure(figsize=(7.2, 4.5), layout="constrained", facecolor=paper)
    ax = figure.subplots()
    low, high = min(estimate.min(), truth.min()), max(estimate.max(), truth.max())
    reach = (low - 0.08 * (high - low), high + 0.06 * (high - low))
    inset = ax.inset_axes((0.66, 0.1, 0.335, 0.42))
    for part, size, limits in ((ax, 26, reach), (inset, 17, (-MIDDLE, MIDDLE))):
        part.plot(limits, limits, color=faint, linewidth=1, zorder=0)
        inside = np.maximum(abs(estimate), abs(truth)) < limits[1]
        for side, colour in ((inside & (truth >= 0), helpful), (inside & (truth < 0), harmful)):
            part.scatter(estimate[side], truth[side], s=size, color=colour, alpha=0.75, linewidth=0)
        _dress(part, ink, faint, paper)
        part.set(xlim=limits, ylim=limits)
    inset.set(xticks=[-0.1, 0, 0.1], yticks=[-0.1, 0, 0.1])
    inset.tick_params(labelsize=8.5)
    inset.spines[:].set_visible(True)
    inset.set_title("the small box, larger", color=ink, fontsize=9.5, pad=5)
    frame = ax.indicate_inset_zoom(inset, edgecolor=ink, alpha=1, linewidth=0.8)
    for line in frame.connectors:  # beside the diagonal it looks like a fit
        line.set_visible(False)
    ax.set_xlabel(f"estimated by dit, all examples in one sweep  ({UNIT})", color=ink, fontsize=10.5)
    ax.set_ylabel(f"retrained exactly, without the example  ({UNIT})", color=ink, fontsize=10.5)
    values = dict(
        zip(result.metric.values, result.agreement.sel(estimator="dit").values.ravel(), strict=True)
    )
    words = (
        f"Pearson {values['pearson']:.2f},  Spearman {values['spearman']:.2f}\n"
        f"test accuracy of the model {100 * result.accuracy.item():.1f} %"
    )
    title = "How the test loss changes without each of 256 training examples"
    ax.set_title(title, color=ink, fontsize=12.5, loc="left", pad=10)
    ax.text(0.025, 0.965, words, transform=ax.transAxes, color=ink, fontsize=11, va="top", linespacing=1.5)
    for y, text, colour in (
        (0.8, "helpful: retrained without it, the loss is higher", helpful),
        (0.745, "harmful: retrained without it, the loss is lower", harmful),
        (0.69, "above the line, the loss rises more than estimated", ink),
    ):
        ax.text(0.025, y, text, transform=ax.transAxes, color=colour, fontsize=9.5, va="top")
    return figure


def _dress(ax: Axes, ink: str, faint: str, paper: str) -> None:
    ax.set_facecolor(paper)
    ax.set_aspect("auto")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[:].set_color(faint)
    ax.tick_params(colors=faint, labelcolor=ink, labelsize=9.5)
