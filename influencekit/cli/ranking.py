"""What `estimate` prints: the most harmful and the most helpful training examples, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from influencekit.cli.summary import window_name
from influencekit.cli.table import aligned, paragraph

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
    notes = "".join(f", {k[5:]} {_short(v)}" for k, v in attrs.items() if k.startswith("note_"))
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
    order = scores.values.argsort(kind="stable")
    order = order[~(scores.values[order] != scores.values[order])]
    labelled = "label" in scores.coords

    def cells(k: int) -> list[str]:
        label = [str(scores.label.values[k])] if labelled else []
        return [str(scores.example.values[k]), *label, f"{float(scores.values[k]):+.3e}"]

    head = ["example", *(["class"] if labelled else []), "effect"]
    top = min(top, len(order))
    harmful = [head, *(cells(k) for k in order[:top])]
    helpful = [head, *(cells(k) for k in order[::-1][:top])]
    left, right = aligned(harmful, left=len(head) - 1), aligned(helpful, left=len(head) - 1)
    wide = max(map(len, left))
    titles = ("most harmful", "most helpful")
    if width is None or wide + 4 + max(map(len, right)) <= width:
        lines.append(click.style(f"{titles[0]:<{wide + 4}}{titles[1]}", bold=True))
        lines += [f"{a:<{wide + 4}}{b}" for a, b in zip(left, right, strict=True)]
    else:
        for title, part in zip(titles, (left, right), strict=True):
            lines += [click.style(title, bold=True), *part, ""]
    if len(order) < scores.sizes["train"]:
        lines.append(f"{len(order)} of {scores.sizes['train']} examples were scored")
    lines += ["", paragraph("effect = the query without the example minus with it", width)]
    if caution := attrs.get("caution"):
        lines += [paragraph(click.style("Beware: ", fg="yellow", bold=True) + caution, width)]
    if warning := attrs.get("trust_warning"):
        ask = "" if verified else "; --verify-top 20 shows what retraining says of the extremes"
        lines += [paragraph(click.style("Beware: ", fg="yellow", bold=True) + warning + ask, width)]
    return "\n".join(lines)


def _trust(attrs: dict[str, Any]) -> str:
    """`trust 0.87: ...`: the figure, what it is, what it cost."""
    method, seconds = attrs["trust_method"], f"{attrs['trust_seconds']:.1f} s"
    figure = "unknown" if attrs["trust"] != attrs["trust"] else f"{attrs['trust']:.2f}"
    if method == "retrain":
        how = f"agreement with retraining without each of {attrs['trust_trainings']} random examples"
    else:
        how = "how proportionately training answers when a few examples lose their weight"
    return f"trust {figure} of 1: {how} ({seconds})"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
