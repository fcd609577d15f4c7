"""Products of gradients at the end of training."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from influencekit import Claim, Estimator, Query, Trajectory, Window
from influencekit_baselines.gradients import along, squared_norms

__all__ = ["GradCos", "GradDot"]


@dataclass(frozen=True)
class GradDot(Estimator):
    """Gradient dot product at the end of training: <gradient of q, gradient of the example>.

        Q_j = <grad q(theta_T), g_j(theta_T)>

    What one more step of gradient descent on j, at learning rate 1, would take off the query. Whole run
    only. Shapes [query, 1, train]; removal minus full. Cost: one forward derivative of all examples a
    query. Source: Charpiat et al., NeurIPS 2019.
    """

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset({Claim.LINEAR, Claim.AVERAGED})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        last = trajectory.steps
        workload, theta = trajectory.workload_at(last), trajectory.evaluated(last).theta
        return along(workload, theta, query.gradient(workload, theta).detach())[:, None]


@dataclass(frozen=True)
class GradCos(Estimator):
    """Cosine of the gradients of the query and of the example at the end of training, from -1 to 1.

        Q_j = <grad q, g_j> / (|grad q| |g_j|)   at theta_T;   0 where a gradient is 0

    Not linear in the query: it has no size. Whole run only. Shapes [query, 1, train]; removal minus full.
    Cost: one forward derivative of all examples a query, and the norm of each one's gradient. Source:
    Charpiat et al., NeurIPS 2019.
    """

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset({Claim.AVERAGED})

    def scores(self, trajectory: Trajectory, query: Query, windows: Sequence[Window]) -> Tensor:
        last = trajectory.steps
        workload, theta = trajectory.workload_at(last), trajectory.evaluated(last).theta
        gradients = query.gradient(workload, theta).detach()
        norms = gradients.norm(dim=1, keepdim=True) * squared_norms(workload, theta).sqrt()
        products = along(workload, theta, gradients)
        return torch.where(norms > 0, products / norms, 0.0)[:, None]
