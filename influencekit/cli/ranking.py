"""What `estimate` prints: the most harmful and the most helpful training examples, or parts, side by side.

By the sign of their effect and the direction of the query, so that neither list is filled from the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from influencekit._direction import asks_no_query, better_in, extremes
from influencekit._training.linear import FAST
from influencekit.cli.console import BEWARE, print_tables, say
from influencekit.cli.summary import asked_of, window_name
from influencekit.plot.style import subject

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["print_ranking", "row_word"]

_WINDOWS = 6  # of so many, each is printed


def row_word(result: xr.Dataset | xr.DataArray) -> str:
    """What a row of a ranking is: an example, or a part of one, which has the `id` of its example."""
    return "part" if {"id", "part"} <= {*result.coords} else "example"


def print_ranking(result: xr.Dataset, top: int, verified: bool = False) -> None:
    """A title, the accuracy, notes of the estimator, and a table for the mean over queries and windows."""
    attrs = result.attrs
    queries = result.sizes["query"]
    what = attrs["query"] + (f" (mean over {queries})" if queries > 1 else "")
    what += asked_of(attrs)
    whose = "" if "store" in attrs else f", seed {attrs['seed']}"
    say((f"{subject(attrs)}{whose}: influence on {what}", "bold"))
    say(_setting(result))
    if "trust" in attrs:
        say(_trust(attrs))
        if "trust_by_window" in attrs:
            say(_by_window(result))
        if believed := attrs.get("trust_believed"):
            say(f"at least {attrs['trust_limit']:g}: {believed}")
    say()
    scores = result.influence.isel(estimator=0, seed=0).mean(("query", "window"), skipna=False)
    ends = extremes(scores.values, better_in(attrs), top)
    word = "score" if asks_no_query(result.attrs) else "effect"
    print_tables(
        {title: _rows(scores, some, word) for title, _, some in ends}, left=1 + ("label" in scores.coords)
    )
    known = int(scores.notnull().sum())
    if known < scores.sizes["train"]:
        say(f"{known} of {scores.sizes['train']} {row_word(result)}s were scored")
    say()
    say(_meaning(result))
    if caution := attrs.get("caution"):
        say(BEWARE, caution)
    if warning := attrs.get("trust_warning"):
        ask = "" if verified else "; --verify-top 20 shows what retraining says of the extremes"
        say(BEWARE, warning + ask)


def _meaning(result: xr.Dataset) -> str:
    """What a number of the table is; one for sets says nothing of a single example."""
    if asks_no_query(result.attrs):
        return "a score, not an effect of removal: it sorts the examples, and has no unit"
    if "intercept" not in result:
        return f"effect = the query without the {row_word(result)} minus with it"
    added = float(result.intercept.mean())
    return f"the query without a set minus with it = {added:+.3e} + the sum of these over the set"


def _setting(result: xr.Dataset) -> str:
    """`dit, curvature hessian; step:0-40, global removal; test accuracy 98.4 %`."""
    attrs, windows = result.attrs, result.sizes["window"]
    where = window_name(result, 0) if windows == 1 else f"mean over {windows} windows"
    notes = "".join(f", {k[5:]} {_short(v)}" for k, v in attrs.items() if k.startswith("note_") and v != FAST)
    accuracy = attrs.get("accuracy", float("nan"))
    reached = f"; test accuracy {100 * accuracy:.1f} %" if accuracy == accuracy else ""
    if why := attrs.get("accuracy_note"):
        reached = f"; no accuracy: {why}"
    return f"{result.estimator.values[0]}{notes}; {where}, {result.removal.values[0]} removal{reached}"


def _rows(scores: xr.DataArray, some: Any, word: str) -> pd.DataFrame:
    """The examples, or parts, at these positions: their id, their class if there is one, their effect, which
    is called `word`."""
    from influencekit.cli.frames import pandas

    pd = pandas()
    columns = {row_word(scores): [str(scores.example.values[k]) for k in some]}
    if "label" in scores.coords:
        columns["class"] = [str(scores.label.values[k]) for k in some]
    return pd.DataFrame(columns | {word: [f"{float(scores.values[k]):+.3e}" for k in some]})


def _trust(attrs: dict[str, Any]) -> str:
    """`trust 0.87 of 1 (values 0.87, ranks 0.95; ...): ...`: the figure, its parts, what it is and cost."""
    seconds = f"{attrs['trust_seconds']:.1f} s"
    if attrs["trust"] != attrs["trust"]:
        return f"trust unknown ({seconds})"
    parts = "".join(
        f"{word} {attrs[f'trust_{name}']:.2f}, "
        for word, name in (("values", "pearson"), ("ranks", "spearman"))
        if f"trust_{name}" in attrs
    )
    size = f"retraining shows {attrs['trust_scale']:.2g} times the scores"
    return f"trust {attrs['trust']:.2f} of 1: {attrs['trust_how']}; {parts}{size} ({seconds})"


def _by_window(result: xr.Dataset) -> str:
    """`by window: step:0-4 0.99, step:4-8 0.31`; of more than six, the extremes and how many are low."""
    values, limit = result.attrs["trust_by_window"], result.attrs["trust_limit"]
    named = [(value, f"{window_name(result, k)} {value:.2f}") for k, value in enumerate(values)]
    if len(named) <= _WINDOWS:
        return "by window: " + ", ".join(text for _, text in named)
    known = sorted(pair for pair in named if pair[0] == pair[0])
    if not known:
        return "by window: nothing can be said"
    good = sum(value >= limit for value, _ in known)
    ends = f"; lowest {known[0][1]}, highest {known[-1][1]}"
    return f"by window: {good} of {len(known)} reach {limit:g}{ends}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
