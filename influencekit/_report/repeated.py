"""A ceiling of the number that a report shows: of the sum or mean over windows, not of single windows."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from influencekit._repeatability import interval
from influencekit._report.scores import span_of
from influencekit._verbs.ceiling import agreements
from influencekit._verbs.results import window_coords, windows_of
from influencekit.metrics import METRICS
from influencekit.windows import Window

__all__ = ["joined_ceiling"]


def joined_ceiling(ceiling: xr.Dataset | None) -> xr.Dataset | None:
    """The same for one query and one window: the mean over queries and, over windows, what `span_of` says.

    Ends of intervals do not add up over windows, and a sum can agree better than any of its windows, so both
    are made anew from `effects` [run, query, window, train]. None where a ceiling of several has none.
    """
    if ceiling is None or ceiling.ceiling.isel(target=0, metric=0).size == 1:
        return ceiling
    if "effects" not in ceiling:
        return None
    windows, (span, _) = windows_of(ceiling), span_of(ceiling)
    values = ceiling.effects.transpose("run", "query", "window", "train").values.astype(np.float64)
    over = values.sum(2, keepdims=True) if span is not None else values.mean(2, keepdims=True)
    effects = torch.from_numpy(over.mean(1, keepdims=True))
    found = interval(effects, float(ceiling.attrs["level"]))
    each = {"mean": found.mean, "low": found.low, "high": found.high}
    first = Window(windows[0].start, max(w.stop for w in windows), windows[0].removal)
    return xr.Dataset(
        agreements(effects) | {n: (("query", "window", "train"), v.numpy()) for n, v in each.items()},
        coords={
            "train": ceiling.train, "query": ["all"], "target": ceiling.target, "metric": list(METRICS),
            **window_coords([span or first]),
        },
        attrs=ceiling.attrs,
    )  # fmt: skip
