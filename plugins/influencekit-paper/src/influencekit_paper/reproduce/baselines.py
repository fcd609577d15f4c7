"""Two cheap rivals of Table V, which the paper does not have; they are no estimators of an effect."""

import numpy as np
import torch
from torch.func import jvp

import influencekit as ik
from influencekit.extend import example_gradients

__all__ = ["gradient_norm", "tracin"]


def tracin(run: ik.Trajectory, query: str) -> np.ndarray:
    """sum over epochs of lr_t <grad q(theta_t), g_j(theta_t)>, t the last state of the epoch [train].

    TracIn on checkpoints (Pruthi et al., NeurIPS 2020), with the gradient of each example's own loss and
    penalty. No curvature, and no matter when an example was in a batch. Negative = harmful. Cost: a forward
    derivative over all examples an epoch.
    """
    workload, epoch = run.workload, run.plan.epoch
    asked = ik.make("query", query)
    last = [t for t in range(run.steps) if t + 1 == run.steps or epoch[t + 1] != epoch[t]]
    total = workload.theta0.new_zeros(workload.n_train)
    for t in last:
        theta = run.state(t + 1).theta
        v = asked.gradient(workload, theta).sum(0).detach()
        with torch.no_grad():
            _, along = jvp(lambda x: workload.losses(x, workload.train), (theta,), (v,))  # type: ignore[misc]
        total += float(run.plan.lr[t, 0]) * (along + workload.l2 * theta @ v)
    return total.cpu().numpy()


def gradient_norm(run: ik.Trajectory) -> np.ndarray:
    """-|g_j| of every example's loss and penalty at the end of training [train]: steep = suspicious.

    Cost: one gradient of each example.
    """
    workload = run.workload
    gradients = example_gradients(workload, run.final.theta, workload.train, workload.l2)
    return -gradients.norm(dim=1).detach().cpu().numpy()
