"""Whether the model, loss and data with which a taped run is opened give what was recorded."""

from __future__ import annotations

from influencekit._trajectory.replay_check import check_losses
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
            "reaches parameters by a side door (a Python list, a closure, .data kept at construction): reach "
            "them as attributes of their modules"
        )
