"""From scores [query, window, train] to one number an example, and what retraining says of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from influencekit._labelled import check_run, dataset_of
from influencekit._trajectory.identity import identity
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.results import examples, window_coords, windows_of
from influencekit.errors import InfluenceKitError, InputError
from influencekit.interfaces import Claim
from influencekit.registry import make
from influencekit.windows import Window

__all__ = [
    "Verified",
    "check_examples",
    "check_scores",
    "combined",
    "exact",
    "figure_of",
    "span_of",
    "verified_by",
    "whole",
]

_DIMS = ("query", "window", "train")


class Verified(NamedTuple):
    """Retrained effects [train], NaN where nothing was retrained, with the ends of their intervals."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def check_scores(run: Trajectory, scores: Any, who: str = "report: scores") -> xr.Dataset:
    """What `estimate` gave of this run. Errors: anything else, of another run, of other examples."""
    found = dataset_of(who, "what estimate(...) gives", scores, ("influence", "start", "stop", "removal"))
    if set(found.influence.dims) == {*_DIMS, "part"}:
        raise InputError(
            f"{who}: these are the scores of parts; give those of whole examples here, and these as parts="
        )
    if set(found.influence.dims) != set(_DIMS):
        raise InputError(
            f"{who}: expected influence with the dimensions query, window, train, got "
            f"{', '.join(map(str, found.influence.dims))}; choose one seed and one estimator with sel(...)"
        )
    check_examples(run, found, who)
    return found


def check_examples(run: Trajectory, found: xr.Dataset, who: str, tested: bool = True) -> None:
    """Errors: a result of another run (with another test set, if it is `tested`), over other examples."""
    check_run(found.attrs.get("run"), identity(run, tested))
    own = [str(each) for each in examples(run.workload)]
    if "train" not in found.coords or [str(x) for x in found.train.values.tolist()] != own:
        raise InputError(f"{who}: these are not the training examples of this run; make it of this run")


def span_of(scores: xr.Dataset) -> tuple[Window | None, str]:
    """The window of the number that is shown, and that in words.

    Neighbouring windows of global removal add up to the window that they make; of others the mean is shown,
    for which there is no window.
    """
    windows = windows_of(scores)
    first, last = windows[0], windows[-1]
    if len(windows) == 1:
        return first, f"steps {first.start} to {first.stop}, {first.removal} removal"
    joined = all(a.stop == b.start for a, b in zip(windows, windows[1:], strict=False))
    if joined and all(w.removal == "global" for w in windows):
        words = f"steps {first.start} to {last.stop}, global removal, the sum of {len(windows)} windows"
        return Window(first.start, last.stop), words
    kinds = " and ".join(sorted({w.removal for w in windows}))
    return None, f"the mean of {len(windows)} windows, {kinds} removal"


def whole(scores: xr.Dataset) -> xr.Dataset:
    """The scores with the one window that `span_of` says; several queries stay. Errors: there is none."""
    window, words = span_of(scores)
    if window is None:
        raise InputError(f"report: {words} is no window that can be retrained; estimate one window")
    if scores.sizes["window"] == 1:
        return scores
    influence = scores.influence.transpose(*_DIMS).astype(np.float64).sum("window", skipna=False)
    influence = influence.astype(scores.influence.dtype).expand_dims(window=1, axis=1)
    rest = scores.drop_dims("window").assign(influence=influence.assign_attrs(scores.influence.attrs))
    return rest.assign_coords(window_coords([window]))


def combined(values: xr.DataArray, added: bool) -> np.ndarray:
    """[train] of values [query, window, train]: over windows the sum or the mean, over queries the mean."""
    values = values.transpose(*_DIMS).astype(np.float64)
    over = values.sum("window", skipna=False) if added else values.mean("window", skipna=False)
    return np.asarray(over.mean("query", skipna=False).values)


def verified_by(run: Trajectory, given: Iterable[tuple[str, xr.Dataset]]) -> Verified:
    """Retrained effects of the number that is shown, from all that was retrained; the first that has one
    counts, those with an interval before all.

    `given`: (what the user calls it, the result of `verify_top`, `trust`, `ceiling` or an exact estimate),
    which `check_retrained` has seen. Errors: nothing that was retrained.
    """
    own = [str(each) for each in examples(run.workload)]
    where = {name: k for k, name in enumerate(own)}
    value, low, high = (np.full(len(own), np.nan) for _ in range(3))
    for who, each in sorted(given, key=lambda one: "low" not in one[1]):
        name = figure_of(who, each)
        added = span_of(each)[0] is not None
        places = [where[str(one)] for one in each.train.values.tolist()]
        ends = ("low", "high") if name == "mean" else ()
        for target, source in zip((value, low, high), (name, *ends), strict=False):
            found = combined(each[source], added)
            new = np.isfinite(found) & np.isnan(target[places])
            if source != name:
                new &= value[places] == combined(each[name], added)  # an interval belongs to its value
            target[np.array(places)[new]] = found[new]
    return Verified(value, low, high)


def figure_of(who: str, each: Any) -> str:
    """The name of what was retrained. Errors: nothing was."""
    has_windows = {"query", "start", "stop", "removal"} <= {*each.variables}
    for name in ("retrained", "mean", "influence"):
        if name in each and set(each[name].dims) == set(_DIMS) and has_windows:
            if name == "influence" and not exact(each.attrs.get("estimator")):
                raise InputError(
                    f"{who}: {each.attrs.get('estimator')!r} is an estimate, and this is the place of what "
                    "retraining gave; pass estimate(run, query, 'loo') or verify_top(...)"
                )
            return name
    raise InputError(
        f"{who}: expected what verify_top, trust, ceiling or an exact estimate gives, a Dataset with "
        "retrained, mean or influence [query, window, train]"
    )


def exact(estimator: Any) -> bool:
    """Whether this is the name of an estimator that retrains."""
    try:
        return Claim.EXACT in make("estimator", str(estimator)).claims
    except InfluenceKitError:
        return False
