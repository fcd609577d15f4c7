"""Whether the model, loss and data with which a taped run is opened give what was recorded."""

from __future__ import annotations

import numpy as np

from influencekit._training.state import State
from influencekit._trajectory.replay_check import check_losses
from influencekit._trajectory.store import read
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import InfluenceKitError, StoreError

__all__ = ["check_opened"]


def check_opened(trajectory: Trajectory, where: str, rounds: bool) -> None:
    """Compare the first step with the store, and its derivatives with the step as the loop took it.

    rounds: the loop computed in lower precision. Errors: other losses; losses or a gradient that differ when
    computed by differentiable operators. Cost: three steps.
    """
    step, made_by = trajectory.step, "model, loss and data"
    state = trajectory.state(trajectory.first)
    t, rtol = state.step, 5e-2 if rounds else 1e-3
    try:
        losses = step.advance(state)[1]
    except InfluenceKitError:
        raise
    except Exception as error:  # the user's own code, on what may not belong to it
        line = (str(error).splitlines() or [""])[0][:120]
        raise StoreError(
            f"{where} is not a run of this {made_by}: step {t} fails with them ({type(error).__name__}: "
            f"{line}); pass those of the run, and its collate= and forward="
        ) from error
    check_losses(trajectory, where, losses, made_by, rtol=rtol, atol=rtol / 10)
    _check_penalty(trajectory, where, state, rtol)
    slots = trajectory.plan.indices[t] >= 0
    g, derived = step.derived(state)
    mine, derived = losses.cpu().double()[slots], derived.cpu().double()[slots]
    if not mine.allclose(derived, rtol=rtol, atol=rtol / 10):
        raise StoreError(
            f"{where}: by plain operators the losses of step {t} are not those of the loop (mean "
            f"{derived.mean():.6g} against {mine.mean():.6g}), so its derivatives would be those of another "
            "run: train with torch.nn.attention.sdpa_kernel(SDPBackend.MATH), or without dropout in fused "
            "kernels, and without hooks that change outputs"
        )
    own = step.gradient(state, step.coefficients(t))[0]
    if not (g - own).norm() <= 10 * rtol * own.norm():
        raise StoreError(
            f"{where}: the gradient of step {t} by the parameters alone is not that of the loop; the model "
            "reaches parameters not as attributes of their modules (a Python list, a closure, .data kept at "
            "construction): reach them so"
        )


def _check_penalty(trajectory: Trajectory, where: str, state: State, rtol: float) -> None:
    """Refuse another penalty than that of the run, where the store has its value."""
    step, t = trajectory.step, state.step
    theirs = (trajectory.plan.indices[t] < 0).numpy() & (step.coefficients(t) != 0).cpu().numpy()
    stored = read(trajectory.group, "loss", slice(t, t + 1))[0].astype(float)[theirs]
    if np.isnan(stored).all():  # also where there is none
        return
    mine = step.gradient(state, step.coefficients(t))[1].double().cpu().numpy()[theirs]
    if not np.allclose(mine, stored, rtol=rtol, atol=rtol / 10, equal_nan=True):
        raise StoreError(
            f"{where} was recorded with another penalty: at step {t} it was {stored[0]:.6g}, and penalty= "
            f"gives {mine[0]:.6g}; pass that of the run"
        )
