"""A file of examples, or of parts of them, to leave out: a plain list, or a CSV table."""

import csv
from collections import Counter
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from influencekit._arguments import short
from influencekit.errors import InputError

__all__ = ["ids_in"]

_MARK, _ACTION = "is_influence_issue", "action"
_YES, _NO = ("true", "1", "yes"), ("false", "0", "no", "")


def ids_in(path: str | Path, option: str = "", parts: bool | None = None) -> list[Any]:
    """The example ids in a file, or rows (id, part) where it is a table with a column `part`.

    One id a line, where blank lines and lines that begin with # do not count; or a table with the columns
    `id` and `is_influence_issue`, as `curate` and `suspects` write it: those that are marked, by true, 1 or
    yes; others say false, 0, no or nothing. A table of parts is the same, or has the columns `id` and `part`
    alone: then all its rows count. A part may come once for each query and window, as `estimate` writes it.

    `option`: what the user calls the file; `parts`: whether it has to name parts (None: as it is). Errors:
    what cannot be read; a table without marks, of scores or with other marks, whose head is not its first
    line or is id alone, or that is not separated by commas; a column that stands twice, rows that say two
    things of one example; no id at all; a part that is no whole number, or that comes twice; parts for
    examples, and the other way round.
    """
    name = f"{option} {path}".strip()
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file in UTF-8"
        raise InputError(f"{name} cannot be read: {reason}") from error
    head = _head(text, name)
    what = "part" if "part" in head else "example"
    _check_kind(what == "part", parts, name)
    if head:
        _check_marks(head, name)
        rows = _marked_rows(_rows(text, name), name)
        if not rows:
            none = f"marks no {what} ({_MARK} is false in all rows)" if _MARK in head else f"holds no {what}"
            raise InputError(f"{name} {none}: nothing is to drop")
        return _pairs(rows, name) if what == "part" else [row["id"] for row in rows]
    lines = [line.strip() for line in text.splitlines()]
    ids = [line for line in lines if line and not line.startswith("#")]
    if not ids:
        raise InputError(f"{name} holds no example id; write one a line")
    return ids


def _head(text: str, name: str) -> list[str]:
    """The head of a table; nothing, of a plain list. Errors: cells that are not separated by commas."""
    first = text.partition("\n")[0].strip()
    for separator, called in ((";", "semicolons"), ("\t", "tabs")):
        if "id" in (cells := _cells(first, separator)) and len(cells) > 1:
            raise InputError(f"{name}: cells are separated by {called}; save the table with commas")
    head = _cells(first, ",")
    if "id" in head and len(head) > 1:
        return head
    if head == ["id"]:
        raise InputError(
            f"{name}: the first line, id, is the head of a table; leave it out: ids alone, one a line"
        )
    if {"example", "query", "window"} <= {*head}:
        raise InputError(
            f"{name}: a table of scores does not say which examples to drop; write their ids, one a line, "
            "or take the table that `curate` or `suspects` wrote"
        )
    if _MARK in text:
        raise InputError(
            f"{name}: expected the head of the table, with the columns id and {_MARK}, in the first line; "
            f"got {short(first)}"
        )
    return []


def _check_kind(found: bool, parts: bool | None, name: str) -> None:
    """Errors: parts where examples are expected, and the other way round."""
    if parts and not found:
        raise InputError(f"{name} names no parts: expected a table with the columns id and part")
    if found and parts is False:
        raise InputError(f"{name} names parts of examples, in its column part; take --parts as well")


def _check_marks(head: Sequence[str], name: str) -> None:
    """Errors: a table without marks that is more than a list of parts; a column that stands twice."""
    if twice := [column for column in ("id", "part", _MARK) if head.count(column) > 1]:
        raise InputError(f"{name}: the table has two columns {twice[0]}; keep one")
    if _MARK in head or {*head} == {"id", "part"}:
        return
    also = f" (the column {_ACTION} is for reading)" if _ACTION in head else ""
    only = "their columns id and part" if "part" in head else "their ids, one a line"
    raise InputError(
        f"{name}: the table has no column {_MARK}{also}; add one with true in the rows to drop, or write "
        f"only {only}"
    )


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:  # no head of a table
        return []


def _rows(text: str, name: str) -> list[dict[str, str]]:
    """The rows of a CSV table. Errors: what is none; a row of another length."""
    try:
        head, *rows = [row for row in csv.reader(StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise InputError(f"{name} is no CSV table: {error}") from error
    if odd := [row for row in rows if len(row) < len(head) or any(row[len(head) :])]:
        much = "fewer" if len(odd[0]) < len(head) else "more"
        raise InputError(f"{name}: a row has {much} cells than the head: {short(odd[0])}")
    return [dict(zip(head, row, strict=False)) for row in rows]


def _marked_rows(rows: Sequence[dict[str, str]], name: str) -> list[dict[str, str]]:
    """Those that are to leave out. Errors: one without an id, or that another row says is to stay."""

    def what(row: dict[str, str]) -> tuple[str | None, ...]:
        return tuple(row.get(column) for column in ("id", "part", "query", "window"))

    marks = [(row, _MARK not in row or _marked(row, name)) for row in rows]
    found, others = [row for row, yes in marks if yes], {what(row) for row, yes in marks if not yes}
    if any(not row["id"] for row in found):
        raise InputError(f"{name}: a marked row has no id")
    if both := [row for row in found if what(row) in others]:
        raise InputError(f"{name}: example {short(both[0]['id'])} stands twice, marked and not; keep one row")
    return found


def _marked(row: dict[str, str], name: str) -> bool:
    """Whether a row is marked. Errors: a mark that is neither yes nor no."""
    mark = row[_MARK].strip().lower()
    if mark not in _YES + _NO:
        raise InputError(
            f"{name}: {_MARK} of example {short(row['id'])} is {short(row[_MARK])}; expected true or false"
        )
    return mark in _YES


def _pairs(rows: Sequence[dict[str, str]], name: str) -> list[tuple[str, int]]:
    """(id, part) of rows, each once. Errors: what is no whole number; the same part twice."""
    found = Counter[tuple[Any, ...]]()
    for row in rows:
        try:
            part = int(row["part"])
        except ValueError as error:
            raise InputError(
                f"{name}: part of example {short(row['id'])} is {short(row['part'])}; expected a whole number"
            ) from error
        found[row["id"], part, row.get("query"), row.get("window")] += 1
    if twice := [key for key, count in found.items() if count > 1]:
        raise InputError(f"{name}: part {twice[0][1]} of example {short(twice[0][0])} comes twice")
    return list(dict.fromkeys(key[:2] for key in found))  # type: ignore[misc]
