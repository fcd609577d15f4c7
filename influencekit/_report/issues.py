"""Which examples are marked as issues, and why: by what was retrained, never by an estimate alone that is
not trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from influencekit._report.scores import Verified
from influencekit._verbs.curate.sets import scaled

__all__ = ["RULE", "Issues", "issues_of"]

RULE = (
    "An example is an issue where leaving it out improves the query, its effect lies beyond three robust "
    "deviations (1.4826 times the median distance from the median), and retraining without it says so, too; "
    "what was not retrained is an issue only where trust reaches its limit. Where `curate` was run, the "
    "issues are what it recommends to drop"
)
_DEVIATIONS = 3


class Issues(NamedTuple):
    """`score` [train] from 0, the most harmful, over 0.5, no effect, to 1; `marked` [train], and how each was
    `verified`: "alone", "set" (left out together with others), or ""."""

    score: np.ndarray
    marked: np.ndarray
    verified: list[str]


def issues_of(
    effect: np.ndarray, harmful: int | None, verified: Verified, trusted: bool, curated: Sequence[np.ndarray]
) -> Issues:
    """Of effects [train] of removal, of which those of the sign `harmful` are bad news (None: neither).

    `curated`: masks [train] of what `curate` recommends to drop, which replace the rule where there are any.
    """
    alone = np.isfinite(verified.value)
    together = np.any(curated, axis=0) if len(curated) else np.zeros(len(effect), dtype=bool)
    how = ["alone" if a else "set" if s else "" for a, s in zip(alone, together, strict=True)]
    towards = effect if harmful is None else -harmful * effect  # negative = harmful
    score = scaled(towards) if np.isfinite(towards).any() else np.full(len(effect), np.nan)
    if harmful is None:
        return Issues(score, np.zeros(len(effect), dtype=bool), how)
    if len(curated):
        return Issues(score, together, how)
    middle = np.nanmedian(towards) if np.isfinite(towards).any() else np.nan
    limit = middle - _DEVIATIONS * 1.4826 * np.nanmedian(np.abs(towards - middle))
    far = np.isfinite(towards) & (towards < min(limit, 0))
    ends = np.where(np.isfinite(verified.low), verified.high if harmful < 0 else -verified.low, np.nan)
    truth = np.where(np.isfinite(ends), ends, -harmful * verified.value)  # the end nearest to no effect
    return Issues(score, far & np.where(alone, truth < 0, trusted), how)


def frame(ids: Sequence[Any], labels: Sequence[str] | None, columns: dict[str, Any], issues: Issues) -> Any:
    """A row for every training example, in the habit of Datalab: `influence_score`, `is_influence_issue`."""
    import pandas as pd

    head: dict[str, Any] = {"id": list(ids)} | ({} if labels is None else {"label": list(labels)})
    own = {
        "influence_score": issues.score,
        "is_influence_issue": issues.marked,
        "verified": np.array([bool(each) for each in issues.verified]),
        "verified_as": issues.verified,
    }
    return pd.DataFrame(head | own | columns)
