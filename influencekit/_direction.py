"""Which way of a query is better, and the words that follow: harmful and helpful, or raises and lowers.

Scores are removal minus full, so a negative score says that the query falls without the example. Whether that
is good news is for the query to say (`Query.better`), and every word and colour of a result asks here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from influencekit.errors import InputError

__all__ = [
    "Better",
    "Which",
    "asks_no_query",
    "better_in",
    "better_of",
    "effect_of",
    "ends",
    "extremes",
    "most",
    "side",
    "sign",
    "which_end",
    "written",
]

Better = Literal["lower", "higher"]
Which = Literal["harmful", "helpful", "raises", "lowers"]

# the words for a negative and for a positive effect of removal
_WORDS: dict[Better | None, tuple[Which, Which]] = {
    "lower": ("harmful", "helpful"),
    "higher": ("helpful", "harmful"),
    None: ("lowers", "raises"),
}
_SIGNS: dict[Better | None, str] = {
    "lower": "lower is better, so positive = the example helped, negative = harmful",
    "higher": "higher is better, so positive = harmful, negative = the example helped",
    None: "positive = without the example the query is larger, negative = smaller",
}


class _Directed(Protocol):
    """A query, as far as its direction goes."""

    @property
    def better(self) -> Better | None: ...


def better_of(query: _Directed) -> Better | None:
    """What a query declares. Errors: anything but "lower", "higher" and None."""
    better = query.better
    if better is not None and better not in ("lower", "higher"):
        raise InputError(
            f"{type(query).__name__}.better must be 'lower', 'higher' or None (neither is better), "
            f"got {better!r}"
        )
    return better


def better_in(attrs: Mapping[Any, Any]) -> Better | None:
    """Which way of its query a result calls better: "lower", "higher", or None where neither is.

    `attrs` are those of what a verb gave. Of a result that was saved before results said so: "lower" for a
    test loss, else None.

    Example:

        >>> import influencekit as ik
        >>> from influencekit.extend import better_in
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> better_in(ik.estimate(run, "test-loss").attrs), better_in(ik.estimate(run, "parameter").attrs)
        ('lower', None)
    """
    if "better" in attrs:
        found = attrs["better"]
        return found if found in ("lower", "higher") else None
    return "lower" if attrs.get("query") in ("test-loss", "test-losses") else None


def written(better: Better | None) -> dict[str, str]:
    """The attr of a result, which must be a text."""
    return {"better": better or "none"}


def sign(better: Better | None) -> str:
    """The meaning of a score's sign, in words."""
    return f"removal minus full: {_SIGNS[better]}"


def ends(better: Better | None) -> tuple[tuple[Which, int], tuple[Which, int]]:
    """(word, sign of the effects) of both ends of a ranking, in the order in which they are shown."""
    negative, positive = _WORDS[better]
    both = ((negative, -1), (positive, 1))
    return both[::-1] if better == "higher" else both


def which_end(which: Which | None, better: Better | None, query: object = "the query") -> Which:
    """The end that is meant; None: the first of `ends`. Errors: harmful, where neither way is better."""
    if which is None:
        return ends(better)[0][0]
    if which in ("raises", "lowers") or (better and which in ("harmful", "helpful")):
        return which
    if which in ("harmful", "helpful"):
        raise InputError(
            f"{query} does not say which way is better, so no example is {which}; write which='lowers' or "
            "'raises' (what removal does to the query), or declare `better` in the query's class"
        )
    raise InputError(f"which must be 'harmful', 'helpful', 'raises' or 'lowers', got {which!r}")


def side(which: Which, better: Better | None) -> int:
    """The sign of the effects of an end that `which_end` let through: -1 = removal lowers the query."""
    return {**dict(ends(better)), "lowers": -1, "raises": 1}[which]


def most(which: str, what: str = "it") -> str:
    """The title of an end: `most harmful`, or `removal lowers it most`."""
    return f"most {which}" if which in ("harmful", "helpful") else f"removal {which} {what} most"


def extremes(values: Any, better: Better | None, count: int) -> list[tuple[str, int, list[int]]]:
    """(title, sign of the effects, positions) of both ends of some effects [train], in the order of `ends`.

    An end holds at most `count` examples of its own sign. Where there is none, it holds the nearest and says
    so: "most harmful: none (least helpful)". NaN is left out.
    """
    order = [int(k) for k in values.argsort(kind="stable") if abs(values[k]) < float("inf")]
    found = []
    for (word, sign), (other, _) in zip(ends(better), ends(better)[::-1], strict=True):
        ranked = order[::-sign]
        own = [k for k in ranked if values[k] * sign > 0]
        title = most(word) if own else f"{most(word)}: none ({most(other).replace('most', 'least')})"
        found.append((title, sign if own else -sign, (own or ranked)[:count]))
    return found


def effect_of(value: float, better: Better | None) -> str:
    """What an example with this effect is called."""
    if not value:
        return "no effect"
    word = _WORDS[better][int(value > 0)]
    return word if better else f"removal {word} it"


def asks_no_query(attrs: Mapping[Any, Any]) -> bool:
    """Whether these scores come from no query, as a training loss does: they are no effects of removal."""
    return str(attrs.get("note_query", "")).startswith("not used")
