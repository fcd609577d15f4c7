"""What `compare` prints: what was compared, the tables of agreement, and what to beware of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from influencekit._statistics import format_percent, format_statistic
from influencekit.cli.ceiling import AGAIN, print_beside
from influencekit.cli.console import BEWARE, Part, print_table, say
from influencekit.cli.summary import asked_of, undefined, window_name
from influencekit.plot.style import subject

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["facts", "print_agreement", "print_comparison", "remarks"]


def print_comparison(
    result: xr.Dataset, found: dict[str, Any], evaluations: Mapping[str, xr.Dataset], saved: Sequence[str]
) -> None:
    """The whole report: facts, a row an estimator, a row a window, the tables of evaluations, remarks."""
    from influencekit.cli.evaluations import print_evaluations

    title, *details = facts(result)
    say((title, "bold"))
    for line in details:
        say(line)
    say()
    print_agreement(found)
    print_evaluations(evaluations)
    if said := remarks(result, found, saved):
        say()
    for parts in said:
        say(*parts)


def facts(result: xr.Dataset) -> list[str]:
    """A title, then what was trained, asked and compared, a line each."""
    attrs, seeds = result.attrs, [int(s) for s in result.seed.values]
    setting = "" if attrs["setting"] == "custom" else f", {attrs['setting']} setting"
    data = f" ({attrs['info_data']})" if "info_data" in attrs else ""
    training = float(result.training_seconds.mean())
    times = f"seed {seeds[0]}; " if len(seeds) == 1 else f"{len(seeds)} seeds ({_ranges(seeds)}); "
    trained = f"trained in {training:.2g} s on {attrs['device']}"
    if math.isnan(training):  # a run that was there
        trained = f"recorded earlier, scored on {attrs['device']}"
    n, compared = result.sizes["train"], attrs["compared_examples"]
    which = f"all {n} training examples" if n == compared else f"{compared} of {n} training examples"
    queries = f" ({result.sizes['query']} of them)" if result.sizes["query"] > 1 else ""
    return [
        f"{subject(attrs)}{setting}{data}",
        f"{'' if 'store' in attrs else times}{attrs['info_steps']} steps, {trained}",
        f"query {attrs['query']}{queries}{asked_of(attrs)}; {_windows(result)}; {which}",
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


def print_agreement(found: dict[str, Any]) -> None:
    """A row an estimator; where there are several windows, Spearman's correlation of each as well."""
    names = list(found["estimators"])
    first = names.index(found["reference"])
    print_table(_estimators(found), dim=[first, len(names)] if "ceiling" in found else [first])
    others = [name for name in names if name != found["reference"]]
    print_beside(found)
    if len(found.get("windows", ())) > 1 and others:
        say()
        print_table(_by_window(found, others), "Spearman in each window")


def _estimators(found: dict[str, Any]) -> pd.DataFrame:
    from influencekit.cli.frames import pandas

    pd = pandas()
    several = len(found["seeds"]) > 1
    rows = []
    for name, row in found["estimators"].items():
        mark = " (reference)" if name == found["reference"] else ""
        metrics = {m: format_statistic(row[m], several) for m in row if m != "seconds"}
        accuracy = format_percent(found["accuracy"], several)
        rows.append(
            {"estimator": name + mark, **metrics, "accuracy": accuracy, "seconds": _seconds(row["seconds"])}
        )
    if "ceiling" in found:
        again = found["ceiling"]["loo_again"]
        metrics = {m: format_statistic(again[m], several) for m in metrics}
        accuracy = format_percent(again["accuracy"], several)
        rows.append(
            {"estimator": AGAIN, **metrics, "accuracy": accuracy, "seconds": _seconds(again["seconds"])}
        )
    return pd.DataFrame(rows)


def _by_window(found: dict[str, Any], names: Sequence[str]) -> pd.DataFrame:
    from influencekit.cli.frames import pandas

    pd = pandas()
    several = len(found["seeds"]) > 1
    rows = []
    for each in found["windows"]:
        spearman = [format_statistic(each["estimators"][n]["spearman"], several) for n in names]
        if "ceiling" in each:
            spearman.append(format_statistic(each["ceiling"]["ceiling"]["spearman"], several))
        rows.append([each["window"], *spearman])
    more = ["ceiling"] if "ceiling" in found else []
    return pd.DataFrame(rows, columns=["window", *names, *more])


def _seconds(value: float) -> str:
    """Three figures, or whole seconds beyond 100; what was taken from a folder took none."""
    if math.isnan(value):
        return "kept"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def remarks(result: xr.Dataset, found: dict[str, Any], saved: Sequence[str]) -> list[tuple[Part, ...]]:
    """What a reader should know before believing the figures, and where the files are."""
    said: list[tuple[Part, ...]] = []
    if caution := result.attrs.get("caution"):
        said.append((BEWARE, caution))
    accuracy = found["accuracy"]["mean"]
    chance = _chance(result)
    if chance and not math.isnan(accuracy) and accuracy < chance + 0.1:
        advice = "; try --setting trained" if found["setting"] == "paper" else ""
        text = (
            f"accuracy {100 * accuracy:.1f} % is near chance ({100 * chance:.0f} %). Agreement on a model "
            f"that has hardly trained says little{advice}."
        )
        said.append((BEWARE, text))
    if {"dit", "sgd-influence"} <= found["estimators"].keys():
        text = (
            "On the whole run dit and sgd-influence are the same recursion: one piece of evidence, not two "
            "(and the second to run has the first one's trace)."
        )
        said.append((text,))
    if missing := undefined(result):
        total = result.agreement.isel(metric=0).size
        text = f"{missing} of {total} agreements are undefined (all scores equal) and left out of the means."
        said.append((text,))
    if ties := _ties(result):
        said.append((ties,))
    if saved:
        said.append((f"saved in {' and '.join(saved)}",))
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
