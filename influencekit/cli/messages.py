"""The sentences around the table: what was compared, how, and what to beware of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from influencekit.cli.summary import undefined, window_name

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["facts", "remarks"]


def facts(result: xr.Dataset) -> list[str]:
    """A title, then what was trained, asked and compared, a line each."""
    attrs, seeds = result.attrs, [int(s) for s in result.seed.values]
    setting = "" if attrs["setting"] == "custom" else f", {attrs['setting']} setting"
    data = f" ({attrs['info_data']})" if "info_data" in attrs else ""
    training = float(result.training_seconds.mean())
    times = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds ({_ranges(seeds)})"
    n, compared = result.sizes["train"], attrs["compared_examples"]
    which = f"all {n} training examples" if n == compared else f"{compared} of {n} training examples"
    queries = f" ({result.sizes['query']} of them)" if result.sizes["query"] > 1 else ""
    return [
        f"{attrs['workload']}{setting}{data}",
        f"{times}; {attrs['info_steps']} steps, trained in {training:.2g} s on {attrs['device']}",
        f"query {attrs['query']}{queries}; {_windows(result)}; {which}",
        f"agreement with {attrs['reference']}"
        + (f", mean ± deviation over the {len(seeds)} seeds" if len(seeds) > 1 else "")
        + f"; jaccard: of {attrs['jaccard']}",
    ]


def _windows(result: xr.Dataset) -> str:
    count, steps = result.sizes["window"], result.attrs["info_steps"]
    removal = str(result.removal[0].item())
    if count > 1:
        return f"mean over {count} windows, {removal} removal"
    if (int(result.start[0]), int(result.stop[0])) == (0, steps):
        return f"the whole run, {removal} removal"
    return f"window {window_name(result, 0)}, {removal} removal"


def remarks(result: xr.Dataset, found: dict[str, Any], saved: Sequence[str]) -> list[str]:
    """What a reader should know before believing the figures, and where the files are."""
    said = []
    beware = click.style("Beware: ", fg="yellow", bold=True)
    if caution := result.attrs.get("caution"):
        said.append(beware + caution)
    accuracy = found["accuracy"]["mean"]
    chance = _chance(result)
    if chance and not math.isnan(accuracy) and accuracy < chance + 0.1:
        advice = "; try --setting trained" if found["setting"] == "paper" else ""
        said.append(
            beware
            + f"accuracy {100 * accuracy:.1f} % is near chance ({100 * chance:.0f} %). Agreement on a model "
            f"that has hardly trained says little{advice}."
        )
    if {"dit", "sgd-influence"} <= found["estimators"].keys():
        said.append(
            "On the whole run dit and sgd-influence are the same recursion: one piece of evidence, not two "
            "(and the second to run has the first one's trace)."
        )
    if missing := undefined(result):
        total = result.agreement.isel(metric=0).size
        said.append(
            f"{missing} of {total} agreements are undefined (all scores equal) and left out of the means."
        )
    if said_of_ties := _ties(result):
        said.append(said_of_ties)
    if saved:
        said.append(f"saved in {' and '.join(saved)}")
    return said


def _ties(result: xr.Dataset) -> str:
    """Where rounding decides which examples jaccard compares; nothing where it does not."""
    worst = result.ties.max(("seed", "query", "window"))
    named = [
        f"{int(n)} of {name}" for name, n in zip(result.estimator.values, worst.values, strict=True) if n
    ]
    if not named:
        return ""
    return (
        f"jaccard: at the border of {result.attrs['jaccard']} rounding decides who is in, among up to "
        f"{', '.join(named)}."
    )


def _chance(result: xr.Dataset) -> float | None:
    if "label" not in result.coords:
        return None
    classes = len(set(result.label.values.ravel().tolist()))
    return 1 / classes if 2 <= classes <= 100 else None


def _ranges(seeds: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> `0-2,5`."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
