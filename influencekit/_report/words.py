"""The sentences of a report: what the number is, what was trained, how far it can be believed."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from influencekit._direction import asks_no_query, better_in, ends
from influencekit._docstring import docstring
from influencekit._report.issues import RULE
from influencekit._report.record import Fact, Words
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InfluenceKitError

__all__ = ["counted", "facts", "made", "method", "trust_facts", "trust_warnings", "words_of"]

_QUERIES = {"test-loss": "the test loss", "test-losses": "the loss of a test example"}


def words_of(scores: xr.Dataset) -> Words:
    """The words that this query asks for."""
    better, query = better_in(scores.attrs), str(scores.attrs.get("query", "the query"))
    by_sign = {sign: word for word, sign in ends(better)}
    name = _QUERIES.get(query.partition(":")[0], query)
    if scores.sizes["query"] > 1:
        name = f"{name}, mean over {scores.sizes['query']}"
    unit = "in the unit of the loss" if "loss" in query else f"in the unit of {query}"
    return Words(by_sign[-1], by_sign[1], name, unit, ends(better)[0][1])


def facts(run: Trajectory, scores: xr.Dataset, span: str, numbers: bool) -> list[Fact]:
    """What was trained, and what was asked; `numbers`: by a regression, which has no accuracy."""
    workload, attrs, info = run.workload, scores.attrs, run.workload.info
    accuracy = attrs.get("accuracy", float("nan"))
    reached = (
        f"{100 * accuracy:.1f} %" if accuracy == accuracy else str(attrs.get("accuracy_note", "unknown"))
    )
    data = f"; {info['data']}" if "data" in info else ""
    model = f"{type(workload.model).__name__}, {workload.n_params:,} parameters"
    tested = "" if workload.test is None else f", {counted(workload.n_test, 'test example')}"
    found = [
        Fact("trained", f"{workload.name}{data}"),
        Fact("model", model),
        Fact(
            "training",
            f"{counted(run.steps, 'step')} by {short_optimizer(run)}; "
            f"{counted(workload.n_train, 'example')}{tested}",
        ),
        *([] if numbers and accuracy != accuracy else [Fact("test accuracy", reached)]),
        Fact("query", str(attrs.get("query"))),
        Fact("without an example", f"{span}: {_REMOVED[str(scores.removal.values[0])]}"),
        Fact("estimator", str(attrs.get("estimator"))),
    ]
    if "average" in attrs:
        found.append(Fact("asked of", f"{attrs['average']} ({attrs.get('average_states', '')})"))
    return found


_REMOVED = {
    "global": "it is absent from the start of training",
    "window": "it is absent in these steps, and the effect is read at their end",
    "occurrence": "it is absent in these steps, and the effect is read at the end of the run",
}


def short_optimizer(run: Trajectory) -> str:
    """The rules and the learning rates of their steps: one, or the lowest and the highest."""
    rules = dict.fromkeys(type(rule).__name__ for rule in run.workload.optimizer.members())
    rates = run.plan.lr[: run.steps]
    low, high = f"{float(rates.min()):g}", f"{float(rates.max()):g}"
    return f"{' and '.join(rules)}, learning rate {low if low == high else f'{low} to {high}'}"


def counted(number: int, word: str) -> str:
    """`1 example`, `1,024 examples`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def method(scores: xr.Dataset) -> str:
    """The method and its settings in words, with its source where its documentation names one."""
    from influencekit.registry import load

    attrs = scores.attrs
    notes = [f"{k[5:]} {v}" for k, v in attrs.items() if str(k).startswith("note_")]
    said = "; ".join([str(attrs.get("estimator")), *notes])
    try:
        text = " ".join(docstring(load("estimator", str(attrs["estimator"]).split(":")[0])).split())
    except (InfluenceKitError, KeyError):
        return said
    source = text.partition("Source: ")[2]
    for end in ("Errors:", "Cost:", "Shapes:", "Sign:", "Example:"):
        source = source.partition(end)[0].strip()
    return f"{said}. {text.partition('. ')[0].rstrip('.')}." + (f" Source: {source}" if source else "")


def made(run: Trajectory, scores: xr.Dataset) -> list[Fact]:
    """Versions, digests and devices: what says that this is that run."""
    import torch

    import influencekit

    attrs: Mapping[str, Any] = run.attrs
    return [
        Fact("sign", str(scores.attrs.get("sign", ""))),
        Fact("method", method(scores)),
        Fact("issues", RULE),
        Fact("run", f"{scores.attrs.get('run', 'unknown')} (its start, its end, its test set)"),
        Fact("recorded", f"{attrs.get('created', 'unknown')} on {attrs.get('device', 'unknown')}, by "
             f"{attrs.get('recorder', 'a tape')}"),
        Fact("versions", f"influencekit {influencekit.__version__}, torch {torch.__version__}, Python "
             f"{platform.python_version()}; recorded with influencekit "
             f"{attrs.get('influencekit_version', '?')}, torch {attrs.get('torch_version', '?')}"),
    ]  # fmt: skip


def trust_facts(
    trust: xr.Dataset | None, ceiling: xr.Dataset | None, joined: xr.Dataset | None
) -> list[Fact]:
    """The trust figure and the ceiling of the number that is shown (`joined`), or why there is none."""
    found = []
    if trust is None:
        found.append(Fact("trust", "not measured: how well retraining agrees with the scores"))
    else:
        value = float(trust.overall)
        said = f"{value:.2f} of 1" if np.isfinite(value) else "unknown"
        found.append(Fact("trust", f"{said}, enough is {trust.attrs['limit']:g}: {trust.attrs['how']}"))
    if ceiling is None:
        found.append(Fact("ceiling", "not measured: how well retraining agrees with itself"))
    elif joined is None:
        found.append(Fact("ceiling", "unknown: it was measured for single windows or queries, and the scores "
                          "join several"))  # fmt: skip
    else:
        text = ", ".join(
            f"{metric.capitalize()} {float(joined.ceiling.sel(target='loo', metric=metric).mean()):.2f}"
            for metric in ("pearson", "spearman")
        )
        found.append(Fact("ceiling", f"{text}: the most an estimate can agree with one retraining, from "
                          f"{ceiling.attrs['runs']} runs"))  # fmt: skip
    return found


def trust_warnings(scores: xr.Dataset, trust: xr.Dataset | None) -> list[str]:
    """What to beware of, caution first; empty where there is nothing."""
    no_effects = (
        f"the scores of {scores.attrs.get('estimator')} ask no query, so they are no effects of removal: "
        "what this page says of removing an example holds for retrained numbers alone"
    )
    said = [
        no_effects if asks_no_query(scores.attrs) else "",
        str(scores.attrs.get("caution", "")),
        "" if trust is None else str(trust.attrs.get("warning", "")),
    ]
    return [f"{each[0].upper()}{each[1:]}" for each in said if each]
