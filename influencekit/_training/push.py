"""The forward reading of a step: the tangent of its gradient, by derivatives only taken backwards."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from influencekit._training.buffers import floating, with_flat
from influencekit._training.curvature import gradient, leaf, pusher
from influencekit._training.parts import Part
from influencekit._training.state import State

__all__ = ["pushed"]


def pushed(
    parts: Iterable[Part], state: State, tangent: State, mean: Tensor, weights: Tensor, l2: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The tangents of the mean gradient [param] and of the buffers after the step, by name.

    `tangent` holds those of state (buffers by name), `weights` [slot] those of the examples' weights, whose
    coefficients are `mean` [slot]. Cost: a gradient and two products of each part.
    """
    dg, buffers = torch.zeros_like(state.theta), tangent.buffers
    for slots, batch, view in parts:
        z, w = leaf(view.z(state.theta)), leaf(mean[slots])
        towards = replace(view, buffers=buffers).z(tangent.theta)
        with torch.enable_grad():
            theta = view.of_theta(z)
            losses = view.losses(z, batch) + 0.5 * l2 * theta @ theta
            g = gradient((w * losses).sum(), z, create_graph=True)[: len(dg)]
            dg = dg + pusher([g], (z, w))((towards, weights[slots] * mean[slots]))[0]
            if view.buffers:
                (moved,) = pusher([view.updated(z, batch)], (z,))((towards,))
                buffers = floating(with_flat(view.buffers, moved))
    return dg, buffers
