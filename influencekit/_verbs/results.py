"""What results of all verbs share: their windows, coordinates and attributes."""

from collections.abc import Sequence
from typing import Any

import xarray as xr

from influencekit import __version__
from influencekit._direction import better_of, sign, written
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.averaging import asked, check_average
from influencekit.errors import InputError, StoreError
from influencekit.interfaces import Claim, Estimator, Query
from influencekit.registry import label
from influencekit.windows import Removal, Window, parse_windows

__all__ = [
    "Windows", "about", "check_windows", "examples", "window_coords",
    "windows_among", "windows_of",
]  # fmt: skip

Windows = str | Sequence[Window] | None


def windows_among(epochs: Sequence[int], windows: Windows, removal: Removal) -> list[Window]:
    """The windows that are meant, of a run whose steps have these epochs. Errors: outside the run, none."""
    if windows is None or isinstance(windows, str):
        return parse_windows(windows or "full", epochs, removal)
    if not windows:
        raise InputError("windows: expected at least one, got none")
    if wrong := [w for w in windows if not isinstance(w, Window)]:
        raise InputError(f"windows: expected Window(start, stop), got {wrong[0]!r}")
    return [w.check(len(epochs)) for w in windows]


def check_windows(trajectory: Trajectory, estimator: Estimator, windows: Sequence[Window]) -> None:
    """Refuse windows that the estimator cannot do, or that reach beyond what the run has recorded."""
    check_average(trajectory, estimator, windows)
    steps = trajectory.steps
    for window in windows:
        whole = window.removal == "global" and (window.start, window.stop) == (0, steps)
        if Claim.WINDOWED not in estimator.claims and not whole:
            raise InputError(
                f"{label(estimator)} cannot do window {window} with {window.removal} removal: it knows "
                f"only the whole run, [0, {steps}) with global removal; use dit or loo"
            )
        read = {s for t in window.evaluations(steps) for part in trajectory.weights(t) for s in part}
        needs = min(window.absent()[0], *read), max(read)
        if needs[0] < trajectory.first or needs[1] > trajectory.last:
            raise StoreError(
                f"window {window} with {window.removal} removal needs the states {needs[0]} to {needs[1]}, "
                f"and the recording holds {trajectory.first} to {trajectory.last}; record the whole run"
                + (
                    " (`influencekit record ... --resume`)"
                    if trajectory.attrs["status"] == "recording"
                    else ""
                )
            )


def windows_of(scores: xr.Dataset) -> list[Window]:
    """The windows of a result: the inverse of `window_coords`."""
    columns = (scores[name].values.tolist() for name in ("start", "stop", "removal"))
    return [Window(*row) for row in zip(*columns, strict=True)]


def window_coords(windows: Sequence[Window]) -> dict[str, Any]:
    """Coordinates of the dimension `window`: its first step, the step after its last, and the removal."""
    return {
        "start": ("window", [w.start for w in windows]),
        "stop": ("window", [w.stop for w in windows]),
        "removal": ("window", [w.removal for w in windows]),
    }


def examples(workload: Workload) -> list[Any]:
    """The training examples' own ids, in their order."""
    return list(workload.train_ids or range(workload.n_train))


def about(trajectory: Trajectory, query: Query, estimator: Estimator) -> dict[str, Any]:
    """What scores say of where they come from: the attrs of every result."""
    workload, better = trajectory.workload, better_of(query)
    return {
        "sign": sign(better),
        **written(better),
        "estimator": label(estimator),
        "query": label(query),
        "workload": workload.name,
        "seed": workload.seed,
        **asked(trajectory),
        "accuracy": trajectory.attrs.get("accuracy", float("nan")),
        **{k: v for k, v in trajectory.attrs.items() if k == "accuracy_note"},
        "optimizer": repr(workload.optimizer),
        "influencekit_version": __version__,
        **({"caution": trajectory.caution} if trajectory.caution else {}),
        **{f"note_{k}": v for k, v in estimator.notes(trajectory).items()},
    }
