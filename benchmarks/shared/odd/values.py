"""Values that a caller may pass where something else is meant, each with what it stands for."""

from __future__ import annotations

import decimal
import random
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = ["EITHER", "REFUSED", "Value", "anything", "flag", "number", "one_of", "same", "spec", "whole"]


class _Word:
    def __init__(self, word: str) -> None:
        self.word = word

    def __repr__(self) -> str:
        return self.word


REFUSED = _Word("refused")
"""It means nothing here: the call must be refused."""
EITHER = _Word("either")
"""The call may be refused, or do what a slower and simpler way does."""


class Value(NamedTuple):
    """A value as text, and the plain value for which it stands: the call with either gives the same."""

    text: str
    it: Any
    stands_for: Any = REFUSED


Kind = Callable[[random.Random], Value]


def same(value: Any) -> Value:
    """A plain value, which stands for itself."""
    return Value(_short(value), value, value)


def _short(value: Any) -> str:
    text = f"{type(value).__name__} {value!r}"
    return " ".join(text.encode("ascii", "backslashreplace").decode().split())[:80]


def bad(*values: Any) -> list[Value]:
    return [Value(_short(value), value) for value in values]


NOT_NUMBERS: tuple[Any, ...] = (
    None, "3", b"3", "three", "", [], [3], (3,), {}, {3}, object(), int, 3 + 0j, np.complex64(1), Path("3"),
    np.array([3, 3]), torch.tensor([3, 3]), torch.tensor(3 + 0j), torch.empty((), device="meta"), "\u00b2",
    np.array("3"), np.datetime64("2020-01-01"), lambda: 3, decimal.Decimal("NaN"), torch.nn.Linear(1, 1),
)  # fmt: skip


def whole(valid: Sequence[int], refused: Sequence[Any] = (), none: bool = False) -> Kind:
    """A whole number: `valid` ones in several guises, `refused` ones, and what is none at all."""

    def draw(r: random.Random) -> Value:
        n = r.choice(list(valid))
        guises = [
            n,
            np.int64(n),
            np.int8(n),
            np.uint16(n),
            torch.tensor(n),
            np.array(n),
            torch.tensor(n).int(),
        ]
        good = [Value(_short(x), x, n) for x in guises]
        wrong = bad(
            *(x for x in NOT_NUMBERS if x is not None or not none), True, False, np.True_, torch.tensor(True),
            float(n) + 0.5, np.float64(n + 0.5), float("nan"), float("inf"), -float("inf"), 1e308, float(n),
            torch.tensor(float("nan")), np.float32("nan"), decimal.Decimal(n) / 3, Fraction(1, 3), *refused,
        )  # fmt: skip
        return r.choice([*good, *wrong])

    return draw


def number(valid: Sequence[float], refused: Sequence[Any] = (), none: bool = False) -> Kind:
    """A real number."""

    def draw(r: random.Random) -> Value:
        x = r.choice(list(valid))
        guises = [x, np.float64(x), torch.tensor(x, dtype=torch.float64), np.array(x)]
        good = [Value(_short(y), y, float(x)) for y in guises]
        wrong = bad(
            *(y for y in NOT_NUMBERS if y is not None or not none), True, False, np.False_,
            torch.tensor(True), float("nan"), np.float32("nan"), torch.tensor(float("nan")), 10**400,
            *refused,
        )  # fmt: skip
        return r.choice([*good, *wrong])

    return draw


def flag() -> Kind:
    """True or False."""
    good = [Value(_short(x), x, bool(x)) for x in (True, False, np.True_, np.False_)]
    wrong = bad("true", "", 2, 0.0, float("nan"), None, [], [True], np.array([True, False]), 1 + 0j, object())
    return lambda r: r.choice([*good, *wrong])


def one_of(words: Sequence[str], none: bool = False) -> Kind:
    """One of some words."""
    wrong = bad(
        *(["", "nothing", words[0].upper() + "x", " " + words[0], words[0] + "\0", "\u00b2", b"dit", 3, 3.0,
           float("nan"), True, [], [words[0]], {words[0]}, np.array([words[0]] * 2), object(), str,
           torch.zeros(2), Path(words[0]), *([] if none else [None])])
    )  # fmt: skip
    good = [same(word) for word in words] + [Value(_short(np.str_(w)), np.str_(w), w) for w in words]
    return lambda r: r.choice([*good, *wrong])


_PIECES = (
    ":", "=", ",", "+", "%", "%zz", "%00", "%ff", "\0", "\n", "\r", "\t", " ", "\x1b[31m", "\u00b2", "\u0663",
    "\u202e", "\ud800", "a" * 5000, "9" * 5000, "nan", "inf", "-1", "1e400", "none", "true", "None", "../",
    "*", "\N{FULLWIDTH DIGIT THREE}", "1_0", "0x3", "''", '"', "{}", "{0}", "%s", "\\",
)  # fmt: skip


def spec(kind: str, names: Sequence[str]) -> Kind:
    """The spec of something registered, with odd characters here and there, and things of another kind."""

    def draw(r: random.Random) -> Value:
        name = r.choice(list(names))
        if r.random() < 0.1:
            return same(name)
        if r.random() < 0.3:
            return Value(*_pair(r.choice([3, b"dit", 3.5, [name], {name: 1}, object, np.array([name] * 2)])))
        text = list(name)
        for _ in range(r.randint(1, 3)):
            text.insert(r.randint(0, len(text)), r.choice(_PIECES))
        return Value(_short("".join(text)), "".join(text), EITHER)

    return draw


def _pair(value: Any) -> tuple[str, Any]:
    return _short(value), value


def anything(world: Mapping[str, Any], but: Sequence[str] = ()) -> Kind:
    """Another thing of this world: a run for a path, a Dataset for a DataArray, arguments swapped."""

    def draw(r: random.Random) -> Value:
        name = r.choice([name for name in world if name not in but])
        return Value(name, world[name])

    return draw
