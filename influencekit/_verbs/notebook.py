"""`scores.ik`: what scores say, in a notebook: caution first, then both ends of the ranking.

An accessor of xarray: the dataset's own view stays as it is. It is there once a verb was used.
"""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import torch
import xarray as xr

from influencekit._direction import better_in, effect_of, extremes
from influencekit._escape import shown
from influencekit.errors import InputError

__all__ = ["Shown"]

_COUNT = 10  # of each end
_CELL = "padding: 2px 8px; text-align: left"


@xr.register_dataset_accessor("ik")
class Shown:
    """Both ends of scores [query, window, train] as a table, by the number that `report` shows: over queries
    the mean; over windows the sum, where they join into one of global removal, else the mean.

    `scores.ik` in a cell shows them; `scores.ik.with_examples(run)` with what the examples look like.
    """

    def __init__(self, scores: xr.Dataset) -> None:
        self._scores, self._looks = scores, dict[int, str]()

    def with_examples(self, run: Any, show: Any = None, names: Any = None) -> Shown:
        """The same with the examples of this run, shown as `report` shows them. Errors: another run."""
        from influencekit._report.contents import check_show, contents
        from influencekit._report.scores import check_scores
        from influencekit._verbs.results import examples, require_run

        check_scores(require_run(run), self._scores, "scores.ik")
        workload = run.workload
        check_show(show, own := examples(workload))
        rows = sorted({k for _, _, some in self._ends() for k in some})
        batch = workload.examples(torch.tensor(rows, device=workload.device))
        other = Shown(self._scores)
        found = contents([batch], [own[k] for k in rows], show, names)
        other._looks = {k: _html(each) for k, each in zip(rows, found, strict=True) if each is not None}
        return other

    def _number(self) -> tuple[np.ndarray, str]:
        """The number [train] that is shown, and what it is in words."""
        from influencekit._report.scores import combined, span_of

        there = {"influence", "start", "stop", "removal"} <= set(self._scores.variables)
        if not there or set(self._scores.influence.dims) != {"query", "window", "train"}:
            raise InputError("scores.ik shows what estimate(...) gives: influence [query, window, train]")
        window, words = span_of(self._scores)
        queries = self._scores.sizes["query"]
        mean = f", the mean of {queries} queries" if queries > 1 else ""
        return combined(self._scores.influence, window is not None), f"{words}{mean}"

    def _ends(self) -> list[tuple[str, int, list[int]]]:
        return extremes(self._number()[0], better_in(self._scores.attrs), _COUNT)

    def __repr__(self) -> str:
        (values, words), lines = self._number(), []
        for title, _, some in self._ends():
            named = (f"{self._name(k)} {values[k]:+.2e}" for k in some)
            lines.append(f"{title}: {', '.join(named)}")
        caution = self._scores.attrs.get("caution")
        return "\n".join(([f"Beware: {caution}"] if caution else []) + [words] + lines)

    def _repr_html_(self) -> str:
        attrs, (values, words), better = self._scores.attrs, self._number(), better_in(self._scores.attrs)
        parts = []
        if caution := attrs.get("caution"):
            parts.append(f"<p><b>Beware.</b> {_text(caution)}</p>")
        what = f"{attrs.get('estimator', 'scores')} on {attrs.get('query', 'a query')}"
        parts.append(f"<p><b>{_text(what)}</b>: {_text(attrs.get('sign', ''))}</p><p>{_text(words)}</p>")
        for title, _, some in self._ends():
            rows = "".join(self._row(k, f"{values[k]:+.3e}, {effect_of(values[k], better)}") for k in some)
            head = f"<caption style='{_CELL}'>{_text(title)}</caption>"
            parts.append(f"<table>{head}<tbody>{rows}</tbody></table>")
        return f"<div>{''.join(parts)}</div>"

    def _row(self, k: int, effect: str) -> str:
        cells = self._looks.get(k, ""), _text(self._name(k)), effect
        inside = "".join(f"<td style='{_CELL}'>{cell}</td>" for cell in cells)
        return f"<tr>{inside}</tr>"

    def _name(self, k: int) -> str:
        label = f", {self._scores.label.values[k]}" if "label" in self._scores.coords else ""
        return shown(f"{self._scores.train.values[k]}{label}")


def _text(value: object) -> str:
    return html.escape(shown(value))


def _html(content: Any) -> str:
    """A small picture, or the beginning of the text."""
    if content.kind == "picture":
        size = f"width='{min(64, max(28, content.width))}' alt=''"
        return f"<img {size} src='data:image/png;base64,{content.value}' style='image-rendering: pixelated'>"
    some = content.value if isinstance(content.value, str) else " ".join(str(v) for v in content.value[:12])
    return _text(some[:120]) if content.kind != "wave" else ""
