"""Which model queries read at the end of a run: an average of its states, where one is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import xarray as xr
from torch import Tensor

from influencekit._tensors import real_tensor
from influencekit._trajectory.ending import Ending
from influencekit._trajectory.trajectory import Trajectory
from influencekit.averages import States
from influencekit.errors import InputError
from influencekit.interfaces import Claim, Estimator
from influencekit.registry import label, resolve
from influencekit.windows import Window

__all__ = ["asked", "averaged", "averaged_as", "check_average"]

_NEAR_ONE = 1e-5  # how far from 1 weights may sum to: what float32 does to some thousand of them


def averaged(trajectory: Trajectory, average: Any) -> Trajectory:
    """The run with its queries asked of an average: a spec, an object with `weights(trajectory)`, an array
    [state] or {state: weight}. None leaves it as it is.

    Errors: `InputError` for weights of another shape, that are not finite, or that do not sum to 1; states
    that were not recorded.
    """
    if average is None:
        return trajectory
    if not isinstance(average, str) and not hasattr(average, "weights"):
        average = States(average)
    average = resolve("average", average)
    w = real_tensor("average", average.weights(trajectory)).double().cpu()
    if w.shape != (trajectory.steps + 1,):
        raise InputError(
            f"average: expected one weight for each of the {trajectory.steps + 1} states, which are 0 to "
            f"{trajectory.steps}; got shape {list(w.shape)}"
        )
    if not abs(float(w.sum()) - 1) <= _NEAR_ONE:
        raise InputError(f"average: the weights of the states must sum to 1, and these to {float(w.sum()):g}")
    weights = {int(t): float(w[t]) for t in w.nonzero().flatten()}
    of_buffers = weights if getattr(average, "use_buffers", False) else {max(weights): 1.0}
    if weights == {trajectory.steps: 1.0}:
        return trajectory.with_ending(None)
    return trajectory.with_ending(Ending(weights, of_buffers, named(average, w)))


def named(average: Any, weights: Tensor) -> str:
    """What results call it: its spec where it has one, which asks the same again."""
    if not isinstance(average, States):
        return label(average)
    digest = hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:8]
    return f"weights of one's own ({digest}{', use_buffers' if average.use_buffers else ''})"


def averaged_as(trajectory: Trajectory, average: Any, estimator: Any) -> Trajectory:
    """The run with its queries asked of `average`, or else of the average that ready scores are of."""
    named = estimator.attrs.get("average") if isinstance(estimator, xr.Dataset) and average is None else None
    if named in (None, asked(trajectory).get("average")):
        return averaged(trajectory, average)
    try:
        return averaged(trajectory, named)
    except InputError as error:
        raise InputError(f"these scores are of {named}: pass the same average= here") from error


def check_average(trajectory: Trajectory, estimator: Estimator, windows: Sequence[Window]) -> None:
    """Refuse what cannot be asked of an average: by this estimator, or over these windows."""
    ending, steps = trajectory.ending, trajectory.steps
    if ending is None:
        return
    reads = [set(window.evaluations(steps)) for window in windows]
    if Claim.AVERAGED not in estimator.claims and any(steps in each for each in reads):
        or_last = "" if ending.asked else ', or ask the last state: average="last"'
        raise InputError(
            f"{label(estimator)} cannot be asked of {ending.average}, {ending.describe(steps)}; use dit or "
            f"loo{or_last}"
        )
    for window, each in zip(windows, reads, strict=True):
        if ending.asked and each != {steps}:
            raise InputError(
                f"window {window} with {window.removal} removal reads the query before the end of the run, "
                f"and {ending.average} is the model at the end; use occurrence removal"
            )


def asked(trajectory: Trajectory) -> dict[str, str]:
    """Which model queries read at the end of the run, where this is not plain: its name and its states."""
    if trajectory.ending is not None:
        named = {"average": trajectory.ending.average}
        return named | {"average_states": trajectory.ending.describe(trajectory.steps)}
    return {"average": "last"} if "reloaded" in trajectory.attrs else {}
