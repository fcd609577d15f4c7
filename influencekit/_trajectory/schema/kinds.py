"""Types and ranges of values in JSON, each with the words that say what is expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, NamedTuple

from influencekit.errors import StoreError

__all__ = [
    "Kind",
    "check_object",
    "items",
    "none_or",
    "number",
    "one_of",
    "shown",
    "text",
    "whole",
    "yes_or_no",
]


class Kind(NamedTuple):
    """`words` say what is expected, `fits` whether a value is that."""

    words: str
    fits: Callable[[Any], bool]


def whole(low: int = 0, high: int = (1 << 63) - 1) -> Kind:
    """A whole number in a range, borders included."""
    above = f"of at least {low}" if high == (1 << 63) - 1 else f"from {low} to {high}"
    return Kind(f"a whole number {above}", lambda x: type(x) is int and low <= x <= high)


def number(low: float = -inf, high: float = inf, nan: bool = False) -> Kind:
    """A number in a range, borders included, but never infinite."""
    ends = [f"of at least {low:g}"] * (low > -inf) + [f"of at most {high:g}"] * (high < inf)
    return Kind(
        " ".join(["a number", " and ".join(ends)]).strip(),
        lambda x: type(x) in (int, float) and ((low <= x <= high and abs(x) < inf) or (nan and x != x)),
    )


def text(longest: int = 10_000) -> Kind:
    """Text of at most so many characters."""
    return Kind(f"text of at most {longest:,} characters", lambda x: type(x) is str and len(x) <= longest)


def one_of(*choices: str) -> Kind:
    """One of these words."""
    return Kind(f"one of {', '.join(choices)}", lambda x: type(x) is str and x in choices)


def none_or(kind: Kind) -> Kind:
    """The kind, or null."""
    return Kind(f"{kind.words}, or null", lambda x: x is None or kind.fits(x))


def items(kind: Kind) -> Kind:
    """A list of the kind."""
    return Kind(f"a list, each {kind.words}", lambda x: type(x) is list and all(map(kind.fits, x)))


yes_or_no = Kind("true or false", lambda x: type(x) is bool)


def check_object(
    found: Any, kinds: Mapping[str, Kind], required: set[str], where: str, closed: bool = True
) -> None:
    """Errors: `StoreError` that names the entry that is missing, unknown (of a closed object), or of another
    kind."""
    if type(found) is not dict:
        raise StoreError(f"{where}: expected an object, got {shown(found)}; record again")
    for name in sorted(required - found.keys()):
        raise StoreError(f"{where} {name!r} is missing; record again")
    for name, value in found.items():
        if name in kinds:
            if not kinds[name].fits(value):
                raise StoreError(
                    f"{where} {name!r}: expected {kinds[name].words}, got {shown(value)}; record again"
                )
        elif closed:
            raise StoreError(
                f"{where} {name[:60]!r} is unknown: no version up to this one writes it; remove it"
            )


def shown(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return "null" if value is None else repr(value)[:60]
