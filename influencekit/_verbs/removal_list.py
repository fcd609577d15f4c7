"""A file of example ids to leave out: a plain list, or a CSV table that marks some of its rows."""

import csv
from io import StringIO
from pathlib import Path

from influencekit._arguments import short
from influencekit.errors import InputError

__all__ = ["ids_in"]

_MARK, _ACTION = "is_influence_issue", "action"
_YES, _NO = ("true", "1", "yes"), ("false", "0", "no", "")


def ids_in(path: str | Path, option: str = "") -> list[str]:
    """The example ids in a file: one a line, where blank lines and lines that begin with # do not count; or a
    table with the columns `id` and `is_influence_issue`, as `curate` and `suspects` write it: those that are
    marked, by true, 1 or yes; others say false, 0, no or nothing.

    `option`: what the user calls the file. Errors: what cannot be read; a table without marks, with other
    ones, whose head is not its first line, or that is not separated by commas; a column or an example that
    stands twice and says two things; no id at all.
    """
    name = f"{option} {path}".strip()
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file in UTF-8"
        raise InputError(f"{name} cannot be read: {reason}") from error
    if _is_table(text, name):
        head, *rows = _table(text, name)
        if odd := [row for row in rows if len(row) < len(head) or any(row[len(head) :])]:
            much = "fewer" if len(odd[0]) < len(head) else "more"
            raise InputError(f"{name}: a row has {much} cells than the head: {short(odd[0])}")
        table = [dict(zip(head, row, strict=False)) for row in rows]
        marks = [(row["id"], _marked(row, name)) for row in table]
        found, others = [each for each, yes in marks if yes], {each for each, yes in marks if not yes}
        if "" in found:
            raise InputError(f"{name}: a marked row has no id")
        if both := [each for each in found if each in others]:
            raise InputError(f"{name}: example {short(both[0])} stands twice, marked and not; keep one row")
        if not found:
            raise InputError(f"{name} marks no example ({_MARK} is false in all rows): nothing is to drop")
        return found
    lines = [line.strip() for line in text.splitlines()]
    ids = [line for line in lines if line and not line.startswith("#")]
    if not ids:
        raise InputError(f"{name} holds no example id; write one a line")
    return ids


def _is_table(text: str, name: str) -> bool:
    """Whether the first line is the head of a table with ids and marks. Errors: a head without marks, or with
    cells that are not separated by commas."""
    first = text.partition("\n")[0].strip()
    head = _cells(first, ",")
    if {"id", _MARK} <= {*head}:
        if twice := [column for column in ("id", _MARK) if head.count(column) > 1]:
            raise InputError(f"{name}: the table has two columns {twice[0]}; keep one")
        return True
    for separator, called in ((";", "semicolons"), ("\t", "tabs")):
        if "id" in (cells := _cells(first, separator)) and len(cells) > 1:
            raise InputError(f"{name}: cells are separated by {called}; save the table with commas")
    if "id" in head and len(head) > 1:
        also = f" (the column {_ACTION} is for reading)" if _ACTION in head else ""
        raise InputError(
            f"{name}: the table has no column {_MARK}{also}; add one with true in the rows to drop, or write "
            "only their ids, one a line"
        )
    if _MARK in text:
        raise InputError(
            f"{name}: expected the head of the table, with the columns id and {_MARK}, in the first line; "
            f"got {short(first)}"
        )
    return False


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:  # no head of a table
        return []


def _marked(row: dict[str, str], name: str) -> bool:
    """Whether a row is marked. Errors: a mark that is neither yes nor no."""
    mark = row[_MARK].strip().lower()
    if mark not in _YES + _NO:
        raise InputError(
            f"{name}: {_MARK} of example {short(row['id'])} is {short(row[_MARK])}; expected true or false"
        )
    return mark in _YES


def _table(text: str, name: str) -> list[list[str]]:
    """The rows of a CSV table. Errors: what is none."""
    try:
        return [row for row in csv.reader(StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise InputError(f"{name} is no CSV table: {error}") from error
