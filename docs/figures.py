"""Draw the figures of docs: `python docs/figures.py [FOLDER]` (docs/figures unless you say).

windows.svg: one run, one window, one example, and the three meanings of being without it.
agreement-light.svg and agreement-dark.svg: the picture of the README (figures_agreement.py).
worth.svg: the figures of results/what-a-score-is-worth.md (figures_worth.py).
timeline.svg: what the code of tape.md saves.
The others are what the code of plugins.md saves, in the section of the paper's plugin.
"""

import contextlib
import io
import os
import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # docs is no package

from figures_agreement import draw as agreement  # noqa: E402
from figures_worth import draw as worth  # noqa: E402

BLUE, RED = "#0072B2", "#D55E00"
STEPS, START, STOP = 12, 4, 8
HOLDS = (1, 3, 4, 6, 9, 11)  # the steps whose batch holds the example
ROWS = (  # removal, absent from, to, {state where q is read: sign}, the effect in words
    (
        "global",
        0,
        STOP,
        {STOP: "+", START: "\N{MINUS SIGN}"},
        "the effect at t2, minus the\neffect already there at t1",
    ),
    ("window", START, STOP, {STOP: "+"}, "the effect at t2,\nwhen the window ends"),
    ("occurrence", START, STOP, {STEPS: "+"}, "the effect at T,\nwhen training ends"),
)


def windows() -> Figure:
    """Time runs to the right; a cell is a step, the line between two cells a state."""
    figure = Figure(figsize=(8.6, 4.1), layout="constrained")
    ax = figure.subplots()
    low = -1.5 * (len(ROWS) - 1) - 0.45
    ax.add_patch(Rectangle((START, low), STOP - START, 1.35 - low, color=BLUE, alpha=0.12, linewidth=0))
    for row, (name, first, last, read, words) in enumerate(ROWS):
        y = -1.5 * row
        for t in range(STEPS):
            absent = first <= t < last and t in HOLDS
            face = RED if absent else BLUE if t in HOLDS else "white"
            later = 0.3 if t >= max(read) else 1.0  # nothing after the last reading matters
            ax.add_patch(
                Rectangle((t, y), 1, 0.42, facecolor=face, edgecolor="0.5", linewidth=0.8, alpha=later)
            )
            if absent:
                ax.plot([t + 0.3, t + 0.7], [y + 0.11, y + 0.31], color="white", linewidth=1.6)
                ax.plot([t + 0.3, t + 0.7], [y + 0.31, y + 0.11], color="white", linewidth=1.6)
        ax.plot([first, last], [y - 0.1, y - 0.1], color=RED, linewidth=2.5, solid_capstyle="butt")
        for state, sign in read.items():
            ax.plot([state, state], [y - 0.1, y + 0.55], color="black", linewidth=1.2)
            ax.plot(state, y + 0.66, marker="o", markersize=13, color="black", markerfacecolor="white")
            ax.text(state, y + 0.65, sign, ha="center", va="center", fontsize=11)
        ax.text(-0.3, y + 0.21, name, ha="right", va="center", fontsize=11, family="monospace")
        ax.text(STEPS + 0.4, y + 0.21, words, ha="left", va="center", fontsize=9.5)
    for state, words in ((0, "0"), (START, "t1"), (STOP, "t2"), (STEPS, "T")):
        ax.text(state, low, words, ha="center", va="top", fontsize=10)
    ax.text((START + STOP) / 2, low, "the window\n[t1, t2)", ha="center", va="top", fontsize=9, color=BLUE)
    _legend(ax, low - 0.75)
    ax.set(xlim=(-2.6, STEPS + 5.6), ylim=(low - 1.0, 1.35))
    ax.axis("off")
    return figure


def _legend(ax, y: float) -> None:
    keys = (
        (-2.4, BLUE, "the batch holds j"),
        (2.3, RED, "it held j: left out"),
        (7.2, "white", "it never held j"),
    )
    for x, colour, words in keys:
        ax.add_patch(Rectangle((x, y - 0.16), 0.6, 0.3, facecolor=colour, edgecolor="0.5", linewidth=0.8))
        ax.text(x + 0.8, y, words, va="center", fontsize=9)
    ax.plot(12.3, y, marker="o", markersize=10, color="black", markerfacecolor="white")
    ax.text(12.3, y, "\N{PLUS SIGN}", ha="center", va="center", fontsize=8)
    ax.text(12.8, y, "q is read: + added, \N{MINUS SIGN} subtracted", va="center", fontsize=9)


def pictures(page: Path, sections: tuple[str, ...], folder: Path) -> list[Path]:
    """Run the Python of some sections, in a folder that is thrown away, and keep the pictures they saved."""
    namespace = {"__name__": "__main__"}
    whole = page.read_text(encoding="utf-8")
    each = (whole.partition(f"\n## {section}\n")[2].partition("\n## ")[0] for section in sections)
    text = "\n".join(each)
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", text)
    with TemporaryDirectory() as place:
        with contextlib.chdir(place), contextlib.redirect_stdout(io.StringIO()):
            exec("\n".join(blocks), namespace)
        return [Path(shutil.copy(path, folder)) for path in sorted(Path(place).glob("*.svg"))]


def draw(folder: Path) -> list[Path]:
    """All figures, drawn into the folder, which loses those of these names that it has."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")  # the same bytes on another day
    for name in [path.name for path in folder.glob("*.svg")]:
        (folder / name).unlink()
    with matplotlib.rc_context({"svg.hashsalt": "influencekit", "svg.fonttype": "path"}):
        plain = {"Date": None, "Creator": None}
        windows().savefig(folder / "windows.svg", metadata=plain)
        compared = [*agreement(folder, metadata=plain), *worth(folder, metadata=plain)]
        saved = pictures(HERE / "plugins.md", ("influencekit-paper",), folder)
        saved += pictures(HERE / "tape.md", ("Three lines", "What you can ask of it"), folder)
        return [folder / "windows.svg", *compared, *saved]


if __name__ == "__main__":
    for drawn in draw(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "figures"):
        print(drawn)
