"""TracIn: the part of the effect that each step shows by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from influencekit import Claim, Estimator, InputError, Query, Trajectory, Window, Workload
from influencekit.extend import Contributions, State, query_gradient
from influencekit_baselines.gradients import along
from influencekit_baselines.steps import epoch_ends, rates, step_contributions, step_sums

__all__ = ["TracIn"]


@dataclass(frozen=True)
class TracIn(Estimator):
    """TracIn: sum over checkpoints of lr <gradient of q, gradient of the example>, without curvature.

        epoch (TracInCP):  Q_j = sum over epochs of lr_t <grad q(theta_{t+1}), g_j(theta_{t+1})>
        step (the ideal):  Q_j = sum over steps with j in S_t of (lr_t/b) <grad q(theta_t), g_j(theta_t)>

    by `checkpoints`. In the first form t is the last step of an epoch; every example is asked at every
    checkpoint, whichever batch held it, so there are no windows. The second is a sum over occurrences, with
    windows. `layers=last` takes the parameters of the last module alone. lr is that of a parameter's group;
    no momentum, no preconditioner.

    Shapes [query, window, train]; removal minus full, harmful = negative for a loss. Cost: a forward
    derivative of all examples an epoch, or of the batch a step; and a gradient of the query there. Errors:
    checkpoints=step on a run that is not recorded there. Source: Pruthi et al., NeurIPS 2020.
    """

    layers: Literal["all", "last"] = "all"
    checkpoints: Literal["epoch", "step"] = "epoch"

    def __post_init__(self) -> None:
        if self.layers not in ("all", "last") or self.checkpoints not in ("epoch", "step"):
            raise InputError(
                "tracin expects layers=all or last and checkpoints=epoch or step, got "
                f"{self.layers!r} and {self.checkpoints!r}"
            )

    @property
    def claims(self) -> frozenset[Claim]:
        sums = {Claim.LOCAL, Claim.WINDOWED, Claim.ADDITIVE} if self.checkpoints == "step" else set()
        return frozenset({Claim.LINEAR} | sums)

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        if self.checkpoints == "step":
            return step_sums(trajectory, query, windows, lambda *at: self._direction(trajectory, *at))
        ends = epoch_ends(trajectory)
        gradient = query_gradient(trajectory, query, len(ends))
        total = torch.zeros((), dtype=trajectory.workload.dtype, device=trajectory.workload.device)
        for t in ends:
            state = trajectory.state(t + 1)
            weight = self._weights(trajectory, t)
            workload = trajectory.workload.with_buffers(state.buffers)
            total = total + along(workload, state.theta, gradient(state)[0].detach() * weight)
        return total[:, None]

    def contributions(
        self, trajectory: Trajectory, query: Query, states: Sequence[int]
    ) -> Iterator[Contributions]:
        return step_contributions(trajectory, query, states, lambda *at: self._direction(trajectory, *at))

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        n = trajectory.steps if self.checkpoints == "step" else len(epoch_ends(trajectory))
        used = f"{int(self._mask(trajectory.workload).sum())} of {trajectory.workload.n_params}"
        return {"checkpoints": n, "parameters": used, "curvature": "none"}

    def _direction(self, trajectory: Trajectory, state: State, gradients: Tensor) -> Tensor:
        return gradients * self._weights(trajectory, state.step)

    def _weights(self, trajectory: Trajectory, t: int) -> Tensor:
        workload = trajectory.workload
        return rates(workload, trajectory.plan.lrs(t)) * self._mask(workload)

    def _mask(self, workload: Workload) -> Tensor:
        """1 for the parameters that count, [param]."""
        layout = workload.layout
        last = layout.names[-1].rpartition(".")[0]
        kept = [self.layers == "all" or name.rpartition(".")[0] == last for name in layout.names]
        sizes = torch.tensor(layout.sizes, device=workload.device)
        return workload.theta0.new_tensor(kept).repeat_interleave(sizes)
