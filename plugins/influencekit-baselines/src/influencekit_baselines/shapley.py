"""In-run data Shapley, first order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from influencekit import Claim, Estimator, Query, Trajectory, Window
from influencekit.extend import Contributions, State
from influencekit_baselines.steps import step_contributions, step_sums

__all__ = ["Shapley"]


@dataclass(frozen=True)
class Shapley(Estimator):
    """In-run data Shapley, first order: each example's part of what every single step does to the query.

    The game of step t: U_t(S) = q(theta_{t+1} by the examples S of the batch) - q(theta_t). To first order
    it is additive, so the Shapley value of j is its own term, and the score, its value with the sign of
    removal, is

        Q_j = sum over steps with j in S_t of (1/b) <-c_t, g_j(theta_t)>

    where c_t is grad q(theta_t) pulled back through the update to the mean gradient of the batch.
    For plain SGD c_t = -lr_t grad q(theta_t), and the scores are those of tracin:checkpoints=step. For any
    other optimizer the update is its own (momentum's, Adam's preconditioner); what its slots carry on to
    later steps is left out, as all later effects are.

    Shapes [query, window, train]; removal minus full. Cost: a gradient of the query and a forward derivative
    of the batch a step. Source: Wang, Mittal, Song and Jia, "Data Shapley in One Training Run", ICLR 2025.
    """

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset({Claim.LINEAR, Claim.LOCAL, Claim.WINDOWED, Claim.ADDITIVE})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        return step_sums(trajectory, query, windows, lambda *at: _direction(trajectory, *at))

    def contributions(
        self, trajectory: Trajectory, query: Query, states: Sequence[int]
    ) -> Iterator[Contributions]:
        return step_contributions(trajectory, query, states, lambda *at: _direction(trajectory, *at))

    def notes(self, trajectory: Trajectory) -> dict[str, str | int | float]:
        return {"curvature": "none", "order": 1}


def _direction(trajectory: Trajectory, state: State, gradients: Tensor) -> Tensor:
    """-c_t [query, param]: how the query answers to the mean gradient of this one step."""
    workload, plan, step, t = trajectory.workload, trajectory.plan, trajectory.step, state.step
    optimizer = step.optimizer_at(t)
    g = step.gradient(state, step.coefficients(t))[0] if optimizer.needs_gradient() else None
    none = {name: gradients.new_zeros(gradients.shape) for name in optimizer.slots}
    c, _, _ = optimizer.pullback(
        workload.layout, state.theta, state.slots, g, plan.updates + t, plan.lrs(t), gradients, none
    )
    return -c
