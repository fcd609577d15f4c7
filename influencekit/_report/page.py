"""The page: a template, a style sheet and a script become one file that asks for nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import resources
from typing import Any

from influencekit._report.curve import curve_picture
from influencekit._report.record import Record

__all__ = ["rendered"]

_SCRIPTS = ("words.js", "lists.js", "tables.js", "points.js", "plots.js", "start.js")
_IN_SCRIPT = {
    ord("<"): "\\u003c",
    ord(">"): "\\u003e",
    ord("&"): "\\u0026",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


def rendered(record: Record) -> str:
    """The whole page as text."""
    import jinja2

    styles, script = _file("report.css"), _script()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(styles)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.from_string(_file("report.html")).render(
        record=record, policy=policy, styles=styles, script=script, data=embedded(record),
        curve=curve_picture(record), top=record.examples[:10], bottom=record.examples[-10:],
    )  # fmt: skip


def embedded(record: Record) -> str:
    """The data for the script, as JSON in which nothing ends the element that holds it."""
    return json.dumps(_plain(record), ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(
        _IN_SCRIPT
    )


def _plain(value: Any) -> Any:
    """As JSON has it: empty entries left out, and surrogates, which UTF-8 cannot write, as escapes."""
    if is_dataclass(value):
        pairs = ((f.name, getattr(value, f.name)) for f in fields(value))
        return {name: _plain(each) for name, each in pairs if each is not None and each != ()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _file(name: str) -> str:
    return resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    parts = "\n".join(_file(name) for name in _SCRIPTS)
    return f'(function () {{\n"use strict";\n{parts}}})();\n'
