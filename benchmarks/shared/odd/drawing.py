"""How a call of the API is drawn: from what may be called, and the kinds of its arguments."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.shared.odd.values import Kind, Value, anything

__all__ = ["Call", "Callee", "Later", "The", "callee", "drawn", "of", "one_from"]

World = Mapping[str, Any]
Given = Mapping[str, Any]


class Call(NamedTuple):
    """A call that was drawn: with which values, how it is made of such, and what to say of a wrong result."""

    name: str
    values: Mapping[str, Value]
    make: Callable[[Given], Any]
    oracle: Callable[[Any, Given], str] | None = None


class The(str):
    """The thing of the world that has this name."""


class Later:
    """A kind that is made when the world is there: its other things, and often one of `also`."""

    def __init__(self, *but: str, also: tuple[Kind, ...] = ()) -> None:
        self.but, self.also = but, also

    def kind(self, every: World) -> Kind:
        def draw(r: random.Random) -> Value:
            if self.also and r.random() < 0.6:
                return r.choice(self.also)(r)
            return anything(every, self.but)(r)

        return draw


class Callee(NamedTuple):
    """What may be called: `make` gives the result of the arguments drawn, the others are the usual ones."""

    name: str
    make: Callable[[World, dict[str, Any]], Any]
    kinds: Mapping[str, Kind | Later]
    oracle: Callable[[World, Any, Given], str] | None = None

    def draw(self, every: World, r: random.Random) -> Call:
        """A call where one argument, or two, are odd."""
        some = r.sample(list(self.kinds), min(len(self.kinds), 1 if r.random() < 0.8 else 2))
        kinds = {k: self.kinds[k] for k in some}
        values = {k: (kind.kind(every) if isinstance(kind, Later) else kind)(r) for k, kind in kinds.items()}
        oracle = self.oracle
        check = None if oracle is None else (lambda found, given: oracle(every, found, given))
        return Call(self.name, values, lambda given: self.make(every, dict(given)), check)


def callee(name: str, make: Any, oracle: Any = None, /, **kinds: Kind | Later) -> Callee:
    return Callee(name, make, kinds, oracle)


def of(function: Any, usual: Given | None = None, name: str = "", /, **kinds: Kind | Later) -> Callee:
    """A function, with its usual arguments."""

    def make(every: World, given: dict[str, Any]) -> Any:
        ready = {k: every[x] if isinstance(x, The) else x for k, x in (usual or {}).items()}
        return function(**{**ready, **given})

    return Callee(name or function.__name__, make, kinds)


def one_from(*values: Value) -> Kind:
    """One of some values."""
    return lambda r: r.choice(values)


def drawn(
    r: random.Random, good: Sequence[tuple[Any, Any]], odd: Sequence[Value], often: float | None = 0.6
) -> Value:
    """An odd value so often (None: as often as each good one), or a good one and what it stands for."""
    it, means = r.choice(good)
    fair = Value(repr(it)[:60], it, means)
    if often is None:
        return r.choice([fair, *odd])
    return r.choice(odd) if r.random() < often else fair
