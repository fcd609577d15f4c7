"""What `estimate` prints: the most harmful and the most helpful training examples, side by side.

By the sign of their effect and the direction of the query, so that neither list is filled from the other.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import click

from influencekit.cli.summary import window_name
from influencekit.cli.table import aligned, paragraph
from influencekit.direction import better_in, extremes
from influencekit.training.linear import FAST

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["report"]


def report(result: xr.Dataset, top: int, width: int | None, verified: bool = False) -> str:
    """A title, the accuracy, notes of the estimator, and a table for the mean over queries and windows."""
    attrs = result.attrs
    name = str(result.estimator.values[0])
    windows = result.sizes["window"]
    where = window_name(result, 0) if windows == 1 else f"mean over {windows} windows"
    queries = result.sizes["query"]
    what = attrs["query"] + (f" (mean over {queries})" if queries > 1 else "")
    notes = "".join(f", {k[5:]} {_short(v)}" for k, v in attrs.items() if k.startswith("note_") and v != FAST)
    accuracy = attrs.get("accuracy", float("nan"))
    reached = f"; test accuracy {100 * accuracy:.1f} %" if accuracy == accuracy else ""
    if why := attrs.get("accuracy_note"):
        reached = f"; no accuracy: {why}"
    lines = [
        click.style(f"{attrs['workload']}, seed {attrs['seed']}: influence on {what}", bold=True),
        paragraph(f"{name}{notes}; {where}, {result.removal.values[0]} removal{reached}", width),
        *([paragraph(_trust(attrs), width)] if "trust" in attrs else []),
        "",
    ]
    scores = result.influence.isel(estimator=0, seed=0).mean(("query", "window"), skipna=False)
    labelled = "label" in scores.coords

    def cells(k: int) -> list[str]:
        label = [str(scores.label.values[k])] if labelled else []
        return [str(scores.example.values[k]), *label, f"{float(scores.values[k]):+.3e}"]

    head = ["example", *(["class"] if labelled else []), "effect"]
    titles, parts = [], []
    for title, _, some in extremes(scores.values, better_in(attrs), top):
        titles.append(title)
        parts.append(aligned([head, *map(cells, some)], left=len(head) - 1))
    left, right = parts
    wide = max(map(len, [*left, titles[0]]))
    if width is None or wide + 4 + max(map(len, [*right, titles[1]])) <= width:
        lines.append(click.style(f"{titles[0]:<{wide + 4}}{titles[1]}", bold=True))
        lines += [f"{a:<{wide + 4}}{b}".rstrip() for a, b in zip_longest(left, right, fillvalue="")]
    else:
        for title, part in zip(titles, (left, right), strict=True):
            lines += [click.style(title, bold=True), *part, ""]
    known = int(scores.notnull().sum())
    if known < scores.sizes["train"]:
        lines.append(f"{known} of {scores.sizes['train']} examples were scored")
    lines += ["", paragraph("effect = the query without the example minus with it", width)]
    if caution := attrs.get("caution"):
        lines += [paragraph(click.style("Beware: ", fg="yellow", bold=True) + caution, width)]
    if warning := attrs.get("trust_warning"):
        ask = "" if verified else "; --verify-top 20 shows what retraining says of the extremes"
        lines += [paragraph(click.style("Beware: ", fg="yellow", bold=True) + warning + ask, width)]
    return "\n".join(lines)


def _trust(attrs: dict[str, Any]) -> str:
    """`trust 0.87 of 1 (values 0.87, ranks 0.95; ...): ...`: the figure, its parts, what it is and cost."""
    seconds = f"{attrs['trust_seconds']:.1f} s"
    if attrs["trust"] != attrs["trust"]:
        return f"trust unknown ({seconds})"
    parts = "".join(
        f"{word} {attrs[f'trust_{name}']:.2f}, "
        for word, name in (("values", "pearson"), ("ranks", "spearman"))
        if f"trust_{name}" in attrs
    )
    size = f"retraining shows {attrs['trust_scale']:.2g} times the scores"
    return f"trust {attrs['trust']:.2f} of 1: {attrs['trust_how']}; {parts}{size} ({seconds})"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
