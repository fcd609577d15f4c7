"""A file of example ids to leave out: a plain list, or a CSV table that marks some of its rows."""

import csv
from io import StringIO
from pathlib import Path

from influencekit._arguments import short
from influencekit.errors import InputError

__all__ = ["ids_in"]

_MARK, _YES = "is_influence_issue", ("true", "1", "yes")


def ids_in(path: str | Path, option: str = "") -> list[str]:
    """The example ids in a file: one a line, where blank lines and lines that begin with # do not count; or a
    table with the columns `id` and `is_influence_issue`, as `curate` writes it: those that are marked.

    `option`: what the user calls the file. Errors: what cannot be read; no id at all.
    """
    name = f"{option} {path}".strip()
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file in UTF-8"
        raise InputError(f"{name} cannot be read: {reason}") from error
    if {"id", _MARK} <= set(text.partition("\n")[0].strip().split(",")):
        head, *rows = _table(text, name)
        if cut := [row for row in rows if len(row) < len(head)]:
            raise InputError(f"{name}: a row has fewer cells than the head: {short(cut[0])}")
        table = [dict(zip(head, row, strict=False)) for row in rows]
        found = [row["id"] for row in table if row[_MARK].strip().lower() in _YES]
        if not found:
            raise InputError(f"{name} marks no example ({_MARK} is false in all rows): nothing is to drop")
        return found
    lines = [line.strip() for line in text.splitlines()]
    ids = [line for line in lines if line and not line.startswith("#")]
    if not ids:
        raise InputError(f"{name} holds no example id; write one a line")
    return ids


def _table(text: str, name: str) -> list[list[str]]:
    """The rows of a CSV table. Errors: what is none."""
    try:
        return [row for row in csv.reader(StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise InputError(f"{name} is no CSV table: {error}") from error
