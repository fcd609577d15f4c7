"""The report for programs: its table as CSV or Parquet, a summary, and a card for a hub of data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from influencekit._escape import shown
from influencekit._report.issues import RULE
from influencekit._report.record import Record
from influencekit.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ENDINGS", "card", "summary", "write"]

ENDINGS = (".html", ".csv", ".parquet", ".md")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def summary(record: Record, issues: pd.DataFrame) -> pd.DataFrame:
    """A row for influence and for every list of `suspects` and `curate`, in the habit of Datalab: how many
    examples are marked, how many of these are verified, and the mean of their `influence_score`."""
    import pandas as pd

    marks = {"influence": issues.is_influence_issue.to_numpy()}
    for name in record.mark_names:
        marks[name] = np.array([name in text.split("; ") for text in issues.lists], dtype=bool)
    rows = [
        (name, int(mark.sum()), int(issues.verified[mark].sum()), float(issues.influence_score[mark].mean()))
        for name, mark in marks.items()
    ]
    return pd.DataFrame(rows, columns=["issue_type", "num_issues", "num_verified", "mean_score"])


def write(
    record: Record, html: str, issues: pd.DataFrame, path: Path, ending: str, table: str | None = None
) -> None:
    """A file by its ending; `table`: the file with `issues`, as the card finds it. Errors: another ending;
    Parquet without pyarrow."""
    if ending == ".html":
        path.write_text(html, encoding="utf-8")
    elif ending == ".csv":
        issues.to_csv(path, index=False, na_rep="nan", lineterminator="\r\n", errors="backslashreplace")
    elif ending == ".parquet":
        try:
            issues.to_parquet(path, engine="pyarrow", index=False)
        except ImportError as error:
            raise InputError("report: .parquet needs pyarrow: pip install pyarrow; or write .csv") from error
    elif ending == ".md":
        path.write_text(card(record, issues, table), encoding="utf-8")
    else:
        raise InputError(f"report: expected a name that ends in {', '.join(ENDINGS)}, got {ending or 'none'}")


def card(record: Record, issues: pd.DataFrame, table: str | None) -> str:
    """A README.md with YAML front matter for a hub of data sets, which names the table, if there is one."""
    size = next((words for most, words in _SIZES if record.total < most), "n>1M")
    head: dict[str, Any] = {
        "pretty_name": record.title,
        "tags": ["influencekit", "data-attribution", "influence", "data-quality"],
        "size_categories": [size],
    }
    if table:
        head["configs"] = [{"config_name": "issues", "data_files": table}]
    beside = f"`{shown(table)}`" if table else "The table of issues (`save` it as .csv or .parquet)"
    front = "\n".join(f"{name}: {json.dumps(value)}" for name, value in head.items())  # JSON is YAML
    facts = "\n".join(f"- {fact.name}: {shown(fact.value)}" for fact in record.facts)
    made = "\n".join(f"- {fact.name}: {shown(fact.value)}" for fact in record.made)
    beware = "".join(f"> **Beware.** {shown(warning)}\n\n" for warning in record.warnings)
    verdicts = "".join(f"{shown(verdict)}\n\n" for verdict in record.verdicts)
    rows = "\n".join(
        f"| {shown(name)} | {count} | {verified} | {'-' if mean != mean else f'{mean:.3f}'} |"
        for name, count, verified, mean in summary(record, issues).itertuples(index=False)
    )
    command = f"\nThis command makes the report again:\n\n    {shown(record.command)}\n"
    again = command if record.command else ""
    return f"""---
{front}
---

# {shown(record.title)}

What each of {record.total:,} training examples does to {record.words.query}: the change if it is left out.

{beware}{verdicts}{facts}

## Issues

{RULE}.

| issue | examples | verified by retraining | mean score |
|---|---|---|---|
{rows}

{beside} has a row for every training example: `influence_score` (0 = most harmful, 0.5 = no effect,
1 = most helpful), `is_influence_issue`, `verified` (was it retrained), `verified_as` (alone, or in a set),
`lists`, `influence` (removal minus full, {record.words.unit}), `retrained`, its interval `low` to `high`
where runs were repeated, and `windows` (what the effect is over: {shown(record.span)}).

## How it was made

{made}
{again}"""
