"""The forward reading of a step: the tangent of the next state, by derivatives that are only taken
backwards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import jvp

from influencekit.training.buffers import floating, with_flat
from influencekit.training.curvature import gradient, leaf, pusher
from influencekit.training.optimizers import Slots

if TYPE_CHECKING:
    from influencekit.training.state import State
    from influencekit.training.step import Step

__all__ = ["pushed_forward"]


def pushed_forward(step: Step, state: State, tangent: State, weights: Tensor) -> State:
    """The tangent of the next state from the tangents of state (buffers by name) and weights [slot]."""
    t, workload, mean = state.step, step.workload, step.coefficients(state.step)
    dg, buffers = torch.zeros_like(state.theta), tangent.buffers
    for view, batch, slots in step.pieces(state):
        z, w = leaf(view.z(state.theta)), leaf(mean[slots])
        towards = replace(view, buffers=buffers).z(tangent.theta)
        with torch.enable_grad():
            theta = view.of_theta(z)
            losses = view.losses(z, batch) + 0.5 * workload.l2 * theta @ theta
            g = gradient((w * losses).sum(), z, create_graph=True)[: len(dg)]
            dg = dg + pusher([g], (z, w))((towards, weights[slots] * mean[slots]))[0]
            if view.buffers:
                (moved,) = pusher([view.updated(z, batch)], (z,))((towards,))
                buffers = floating(with_flat(view.buffers, moved))

    def update(theta: Tensor, slots: Slots, g: Tensor) -> tuple[Tensor, Slots]:
        return workload.optimizer.step(
            workload.layout, theta, slots, g, step.plan.updates + t, step.plan.lrs(t)
        )

    primal = (state.theta, state.slots, step.gradient(state, mean)[0])
    _, (new, kept) = jvp(update, primal, (tangent.theta, tangent.slots, dg))  # type: ignore[misc]
    return type(state)(new, kept, t + 1, buffers)
