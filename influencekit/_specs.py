"""The typed options of a class or function, and their text form: what stands behind `name:key=value`.

The fields of a frozen dataclass (or the parameters of a workload function) are its options. Written as text:

| annotation | text |
|---|---|
| `int`, `float` | `20`, `0.05`, `1e-3` (never NaN) |
| `bool` | `true`, `false` |
| `str` | itself; `%`, `:`, `,`, `+` and blanks as in a URL: `%25`, `%3A`, `%2C`, `%2B`, `%20` |
| `Literal[...]`, `Enum` | one of the choices (an enum's by value) |
| `X | None` | `none`, or X; a union takes the first of its types that fits |
| `tuple[X, ...]`, `tuple[X, Y]` | its items joined by `+`: `8+8`; no text at all for the empty tuple |

Any other annotation (a tensor, a function) makes an option that only Python can give.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import quote, unquote

from influencekit.errors import InputError

__all__ = ["REQUIRED", "Option", "is_union", "options_of", "read_options", "shown_type", "unknown"]


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


def unknown(what: str, name: str, known: Iterable[str] | Mapping[str, object], listing: str) -> InputError:
    """The error for an unknown name: `no {what} '{name}'; did you mean ...? {listing}: ...`.

    `known` are the names to choose from, or a mapping from them to how each is to be listed.
    """
    rows = dict(known) if isinstance(known, Mapping) else {each: each for each in known}
    nearest = [
        *(each for each in rows if name and each.startswith(name.lower())),
        *(each for each in rows if sorted(each) == sorted(name.lower())),  # letters exchanged
        *get_close_matches(name, rows, n=1),
        *get_close_matches(name.lower(), rows, n=1),
    ]
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    return InputError(f"no {what} '{name}'; {hint}{listing}: {', '.join(map(str, rows.values())) or 'none'}")


@dataclass(frozen=True)
class Option:
    """One option: its name, its annotation with all names resolved, its default or `REQUIRED`."""

    name: str
    annotation: Any
    default: Any = REQUIRED

    @property
    def writable(self) -> bool:
        """Whether it has a text form at all."""
        return shown_type(self.annotation) is not None

    def parse(self, text: str) -> Any:
        """The value that `text` stands for. Errors: `InputError` when it is not of the option's type."""
        if not self.writable:
            raise InputError(f"option '{self.name}' has no text form; give it in Python")
        try:
            return _parse(self.annotation, text)
        except ValueError:
            raise InputError(
                f"option '{self.name}' expects {shown_type(self.annotation)}, got '{text}'"
            ) from None

    def write(self, value: Any) -> str:
        """The text that parses back to an equal value. Errors: `InputError` when there is none."""
        if self.writable:
            try:
                text = _write(value)
                if _equal(_parse(self.annotation, text), value):
                    return text
            except (TypeError, ValueError):
                pass
        raise InputError(f"option '{self.name}' has no text form for this {type(value).__name__}; use Python")

    def is_default(self, value: Any) -> bool:
        return value is self.default or _equal(value, self.default)

    def __str__(self) -> str:
        """As it is listed: `k=20`, `vector=<required>`, `chunk=<none>` where only Python can give it."""
        if self.default is REQUIRED:
            return f"{self.name}=<required>"
        try:
            return f"{self.name}={self.write(self.default)}"
        except InputError:
            return f"{self.name}=<{type(self.default).__name__}>"


def options_of(target: Any) -> Mapping[str, Option]:
    """The options of a dataclass (its init fields) or of a function (its named parameters), in order."""
    return _options_of(target)


@lru_cache(maxsize=512)  # annotations are resolved once
def _options_of(target: Any) -> Mapping[str, Option]:
    if isinstance(target, type) and dataclasses.is_dataclass(target):
        hints = _hints(*reversed(target.__mro__))
        return {
            field.name: Option(field.name, hints[field.name], _field_default(field))
            for field in dataclasses.fields(target)
            if field.init
        }
    hints = _hints(target)
    parameters = inspect.signature(target).parameters.values()
    return {
        p.name: Option(p.name, hints.get(p.name, str), REQUIRED if p.default is p.empty else p.default)
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }


def read_options(kind: str, text: str, options: Mapping[str, Option]) -> dict[str, Any]:
    """The values in a spec `name:key=value:...`; None for a key that is none of `options`.

    Errors: no `=`, a key that stands twice, a value of the wrong type.
    """
    values: dict[str, Any] = {}
    for pair in text.split(":")[1:]:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"expected key=value in {kind} '{text}', got '{pair}'")
        if key in values:
            raise InputError(f"option '{key}' stands twice in {kind} '{text}'")
        values[key] = options[key].parse(value) if key in options else None
    return values


def _hints(*owners: Any) -> dict[str, Any]:
    """Annotations by name. What only a type checker can resolve stays a string, so without a text form."""
    hints: dict[str, Any] = {}
    for owner in owners:
        scope = vars(sys.modules.get(owner.__module__, typing))
        for name, annotation in inspect.get_annotations(owner).items():
            if isinstance(annotation, str):
                with suppress(Exception):
                    annotation = eval(annotation, scope)
            hints[name] = annotation
    return hints


def _field_default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return REQUIRED if field.default_factory is dataclasses.MISSING else field.default_factory()


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (TypeError, ValueError, RuntimeError):  # tensors and arrays have no one truth
        return False


_NUMBER = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?inf(inity)?", re.ASCII | re.IGNORECASE
)
_PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}


def shown_type(annotation: Any) -> str | None:
    """The annotation in words; None where it has no text form."""
    if isinstance(annotation, list):  # the arguments of a Callable
        return None
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if choices := _choices(annotation):
        return "one of " + ", ".join(choices)
    parts = [shown_type(part) for part in typing.get_args(annotation) if part is not Ellipsis]
    if not parts or None in parts:
        return None
    if is_union(annotation):
        return " or ".join(str(part) for part in parts)
    if typing.get_origin(annotation) is tuple:
        return "values joined by + (" + ", ".join(str(part) for part in parts) + ")"
    return None


def _choices(annotation: Any) -> dict[str, Any]:
    if annotation is bool:
        return {"true": True, "false": False}
    if annotation is type(None):
        return {"none": None}
    if typing.get_origin(annotation) is Literal:
        return {_write(choice): choice for choice in typing.get_args(annotation)}
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return {_write(member): member for member in annotation}
    return {}


def is_union(annotation: Any) -> bool:
    """Whether an annotation is one of several types."""
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _parse(annotation: Any, text: str) -> Any:
    if choices := _choices(annotation):
        return _one_of(choices, text)
    if annotation is str:
        return unquote(text, errors="surrogatepass")
    if annotation in (int, float):
        if not _NUMBER.fullmatch(text):  # Python also reads 1_000, blanks, and the digits of other scripts
            raise ValueError(text)
        return annotation(text)
    parts = typing.get_args(annotation)
    if is_union(annotation):
        return _first_that_fits(sorted(parts, key=lambda part: part is not type(None)), text)
    items = text.split("+") if text else []
    if parts[-1] is Ellipsis:
        parts = parts[:1] * len(items)
    return tuple(_parse(part, item) for part, item in zip(parts, items, strict=True))


def _one_of(choices: Mapping[str, Any], text: str) -> Any:
    if text not in choices:
        raise ValueError(text)
    return choices[text]


def _first_that_fits(annotations: Iterable[Any], text: str) -> Any:
    for annotation in annotations:
        try:
            return _parse(annotation, text)
        except ValueError:
            continue
    raise ValueError(text)


def _write(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, enum.Enum):
        return _write(value.value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(float(value)).removesuffix(".0").replace("e+", "e")
    if isinstance(value, str):
        return quote(value, safe="/=@~()[]", errors="surrogatepass")
    if isinstance(value, tuple):
        return "+".join(_write(item) for item in value)
    raise TypeError(type(value).__name__)
