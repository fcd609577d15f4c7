"""The scores of the parts of examples, such as tokens, with the texts that the user has for them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from influencekit._arguments import short
from influencekit._labelled import dataset_of
from influencekit._report.contents import TOKENS, said
from influencekit._report.scores import check_examples, combined, span_of
from influencekit._training.batch import Batch, select
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.results import examples, windows_of
from influencekit.errors import InputError

__all__ = ["PartNames", "check_parts", "parts_of"]

PartNames = Callable[[Any], Sequence[str]] | Mapping[Hashable, Sequence[str]] | None
_WHO = "report: parts"
_LONGEST = 60  # characters of a text


def check_parts(run: Trajectory, scores: xr.Dataset, parts: Any) -> xr.Dataset:
    """What `estimate(..., parts=True)` gave of the same question as the scores. Errors: anything else."""
    what = "what estimate(..., parts=True) gives"
    found = dataset_of(_WHO, what, parts, ("influence", "start", "stop", "removal"), dims=("part",))
    check_examples(run, found, _WHO)
    for name in ("estimator", "query", "average"):
        if found.attrs.get(name) != scores.attrs.get(name):
            raise InputError(
                f"{_WHO}: of {name} {found.attrs.get(name)}, and the scores are of {scores.attrs.get(name)}; "
                "estimate both alike"
            )
    if windows_of(found) != windows_of(scores):
        raise InputError(f"{_WHO}: over other windows than the scores; estimate both alike")
    return found


def parts_of(
    run: Trajectory, parts: xr.Dataset, names: PartNames, rows: np.ndarray, batch: Callable[[int], Batch]
) -> dict[int, tuple[tuple[str, float], ...]]:
    """{position: (text, score) of its parts} of the examples at `rows`, at most 200 of each.

    The score is over queries and windows what that of the example is. Without names a part is called by its
    number. Errors: names that fail, or too few.
    """
    added = span_of(parts)[0] is not None
    some = [parts.influence.isel(part=p) for p in range(min(parts.sizes["part"], TOKENS))]
    values = np.stack([combined(one, added) for one in some], -1)
    own, found = examples(run.workload), {}
    for row in map(int, rows):
        there = np.flatnonzero(np.isfinite(values[row]))
        texts = _texts(names, own[row], lambda row=row: batch(row), int(there.max(initial=-1)) + 1)  # type: ignore[misc]
        found[row] = tuple((texts[p], float(f"{values[row, p]:.3g}")) for p in there.tolist())
    return found


def _texts(names: PartNames, name: Any, example: Callable[[], Batch], count: int) -> list[str]:
    if names is None:
        return [f"part {p}" for p in range(count)]
    try:
        if isinstance(names, Mapping):
            texts: Any = names[name] if name in names else names[str(name)]
        else:
            texts = names(select(example(), torch.tensor(0)))
        found = [_visible(str(text)[:_LONGEST]) for text in texts]
    except Exception as error:  # the user's own function
        raise InputError(f"report: part_names failed for example {short(name)} with {said(error)}") from error
    if len(found) < count or isinstance(texts, str):
        raise InputError(
            f"report: part_names must give a text for each of the {count} parts of example {short(name)}, "
            f"got {short(texts)}"
        )
    return found


def _visible(text: str) -> str:
    """A blank text as one that can be seen."""
    return text if text.strip(" ") else "␣" * len(text) or "(empty)"
