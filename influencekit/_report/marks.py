"""What other verbs say of training examples (suspects, curate), whatever columns they bring."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from influencekit._report.scores import check_examples
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InputError

__all__ = ["Remarks", "marks_of"]

_ISSUE = "is_influence_issue"
_VERBS = {"suspected": ("suspects", "suspicion"), "curated": ("curate", _ISSUE)}  # and a column of each
_KNOWN = {"influence", "influence_score", "label", "suspicion"}  # which the card shows by itself
_WORDS = {  # of `suspects`, whose words alone would say something else on the card
    "rank": "rank of suspicion", "given": "given label", "predicted": "predicted without training on it",
    "learnt": "learnt from epoch",
}  # fmt: skip


class Remarks(NamedTuple):
    """Of every training example: the names of lists it is on, and (name, text) of other columns; what the
    results conclude in a sentence; masks of what `curate` would drop; and how suspicious [train] and at which
    place by suspicion, NaN where nobody said."""

    lists: list[tuple[str, ...]]
    notes: list[tuple[tuple[str, str], ...]]
    verdicts: list[str]
    issues: list[np.ndarray]
    suspicion: np.ndarray
    suspicion_rank: np.ndarray


def marks_of(run: Trajectory, given: Iterable[tuple[str, Any]]) -> Remarks:
    """From (name, result over `train`): columns of truth values are lists, others notes.

    Errors: no Dataset, of another run, or without a column over `train`.
    """
    count = run.workload.n_train
    lists, notes = [list[str]() for _ in range(count)], [list[tuple[str, str]]() for _ in range(count)]
    verdicts, issues = list[str](), list[np.ndarray]()
    suspicion, place = np.full(count, np.nan), np.full(count, np.nan)
    for who, each in given:
        if not isinstance(each, xr.Dataset):
            raise InputError(f"report: {who} must be a result over the training examples, a Dataset")
        check_examples(run, each, f"report: {who}", tested=False)  # curate has its own trusted examples
        columns = {str(n): v.values for n, v in each.variables.items() if v.dims == ("train",)}
        columns = {n: v for n, v in columns.items() if n != "train"}
        if not columns.keys() - {"label"}:  # which every result has
            raise InputError(f"report: {who} has no column over train alone; pass the result of the verb")
        _check_verb(who, columns)
        if "suspicion" in columns:
            suspicion = np.asarray(columns["suspicion"], dtype=np.float64)
            place = np.asarray(columns.get("rank", place), dtype=np.float64)
        for name, values in columns.items():
            if values.dtype.kind == "b":
                title = _title(who, name)
                for k in np.flatnonzero(values).tolist():
                    lists[k].append(title)
                if name == _ISSUE and who == "curated":
                    issues.append(values)
            elif name not in _KNOWN:
                for k, value in enumerate(values.tolist()):
                    if text := _text(value):
                        notes[k].append((_note(who, name), text))
        verdicts += [str(each.attrs[n]) for n in ("verdict", "summary") if n in each.attrs]
        verdicts += [str(each.attrs["caution"])] if "caution" in each.attrs else []
    return Remarks([tuple(x) for x in lists], [tuple(x) for x in notes], verdicts, issues, suspicion, place)


def _check_verb(who: str, columns: dict[str, Any]) -> None:
    """Errors: the columns are those of the other verb."""
    verb, own = _VERBS[who]
    other, theirs = next(each for name, each in _VERBS.items() if name != who)
    if theirs in columns and own not in columns:
        place = next(name for name in _VERBS if name != who)
        raise InputError(
            f"report: {who} must be what {verb}(...) gives, and this is what {other}(...) gives; pass it as "
            f"{place}="
        )


def _title(who: str, name: str) -> str:
    """`is_suspect` of `suspected` is the list `suspect`. Those of `curate`, whose query is another, say so:
    `drop (curate)` is what it drops, `verified (curate)` what was in the sets that were judged."""
    if name == _ISSUE:
        return "drop (curate)" if who == "curated" else "issue"
    title = name.removeprefix("is_").replace("_", " ")
    return f"{title} (curate)" if who == "curated" else title


def _note(who: str, name: str) -> str:
    """What a column is called on a card, with the verb that says so: both say what to do, and may differ."""
    verb = _VERBS[who][0]
    return f"{verb} says" if name == "action" else f"{verb}: {_WORDS.get(name, name.replace('_', ' '))}"


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
