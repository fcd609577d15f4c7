"""A table in four forms: CSV, JSON, LaTeX and Markdown."""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from influencekit_paper.reproduce.cells import replace_file
from influencekit_paper.reproduce.report import Figure, Report

__all__ = ["FORMS", "as_csv", "as_json", "as_latex", "as_markdown", "save"]


def as_csv(report: Report, made: Mapping[str, Any]) -> str:
    """A line a figure: the labels, the column, mean, std, seeds, printed (empty where there is nothing)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*report.heads, "column", "mean", "std", "seeds", "printed"])
    for line in report.lines:
        for column, f in zip(report.columns, line.figures, strict=True):
            numbers = ["" if x is None or math.isnan(x) else x for x in (f.mean, f.std, f.seeds, f.printed)]
            writer.writerow([*line.labels, column, *numbers])
    return text.getvalue()


def as_json(report: Report, made: Mapping[str, Any]) -> str:
    """All of it, with `made`: how, where and with what."""
    lines = [
        {
            **dict(zip(report.heads, line.labels, strict=True)),
            "figures": dict(zip(report.columns, map(_plain, line.figures), strict=True)),
        }
        for line in report.lines
    ]
    content = {"table": report.name, "title": report.title, **made, "notes": report.notes, "lines": lines}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def as_markdown(report: Report, made: Mapping[str, Any]) -> str:
    """A table for a page; the paper's figures in brackets."""
    head, *rows = report.cells
    table = "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
    notes = "\n".join(f"- {note}" for note in report.notes)
    return f"### {report.title}\n\n{_says(report, made)}\n\n{table}\n\n{notes}\n"


def as_latex(report: Report, made: Mapping[str, Any]) -> str:
    """A table environment that needs no package."""
    form = "l" * len(report.heads) + "r" * len(report.columns)
    head, *body = [" & ".join(map(_escaped, row)) + r" \\" for row in report.cells]
    caption = _escaped(" ".join([f"{report.title}.", _says(report, made).replace("`", ""), *report.notes]))
    return "\n".join(
        [
            r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", rf"\label{{tab:{report.name}}}",
            rf"\begin{{tabular}}{{{form}}}", r"\hline", head, r"\hline", *body, r"\hline",
            r"\end{tabular}", r"\end{table}", "",
        ]
    )  # fmt: skip


FORMS = {"csv": as_csv, "json": as_json, "tex": as_latex, "md": as_markdown}


def save(report: Report, made: Mapping[str, Any], folder: Path) -> None:
    """Write NAME.csv, NAME.json, NAME.tex and NAME.md, each as a whole, over what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for ending, form in FORMS.items():
        replace_file(folder / f"{report.name}.{ending}", form(report, made))


def _says(report: Report, made: Mapping[str, Any]) -> str:
    brackets = "; the paper's mean in brackets" if report.compared else ""
    return (
        f"`{made['command']}`, {made['machine']}, torch {made['torch']}. Mean ± deviation over up to "
        f"{made['seeds']} seeds{brackets}."
    )


def _plain(figure: Figure) -> dict[str, float | int | None]:
    plain = {k: v for k, v in asdict(figure).items() if k != "decimals" and (k != "ties" or v)}
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in plain.items()}


_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    c: f"\\{c}" for c in "&%$#_{}"
}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)
