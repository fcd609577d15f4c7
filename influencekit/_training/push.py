"""The forward reading of a step: the tangent of its gradient, by derivatives only taken backwards."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from influencekit._training.buffers import floating, with_flat
from influencekit._training.curvature import gradient, leaf, pusher
from influencekit._training.parts import Part
from influencekit._training.state import State
from influencekit.errors import InputError

__all__ = ["pushed"]


def pushed(
    parts: Iterable[Part], state: State, tangent: State, mean: Tensor, weights: Tensor, l2: float
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The mean gradient [param], its tangent, and that of the buffers after the step, by name.

    `tangent` holds those of state (buffers by name), `weights` [slot] those of the examples' weights, whose
    coefficients are `mean` [slot]. Cost: a gradient and two products of each part. Errors: buffers that
    training changes and that `tangent` has not.
    """
    total, dg, buffers = torch.zeros_like(state.theta), torch.zeros_like(state.theta), tangent.buffers
    if missing := sorted(set(floating(state.buffers)) - set(buffers)):
        raise InputError(
            f"training changes the model's buffer {missing[0]}, and the tangent that is pushed has none of "
            "it; carry on the buffers of the State that push returns, beginning with zeros"
        )
    for slots, batch, view in parts:
        z, w = leaf(view.z(state.theta)), leaf(mean[slots])
        towards = replace(view, buffers=buffers).z(tangent.theta)
        with torch.enable_grad():
            theta = view.of_theta(z)
            losses = view.losses(z, batch) + 0.5 * l2 * theta @ theta
            g = gradient((w * losses).sum(), z, create_graph=True)[: len(dg)]
            dg = dg + pusher([g], (z, w))((towards, weights[slots] * mean[slots]))[0]
            total = total + g.detach()
            if view.buffers:
                (moved,) = pusher([view.updated(z, batch)], (z,))((towards,))
                buffers = floating(with_flat(view.buffers, moved))
    return total, dg, buffers
