"""How wide the corners of a step are made: as far as the weight of one example moves their inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from influencekit import InputError
from influencekit.extend import Part
from influencekit_smooth.corners import Corners, smoothed

__all__ = ["Widths", "corners_left", "inputs_of_corners"]


def inputs_of_corners(part: Part, theta: Tensor) -> list[Tensor]:
    """What goes into each corner of the model, on a part of a step at theta [param], in their order."""
    found: list[Tensor] = []

    def relu(a: Tensor) -> Tensor:
        found.append(a.detach().clone())
        return torch.relu(a)

    with Corners(relu):
        part.outputs(theta)
    return found


def corners_left(part: Part, theta: Tensor) -> list[str]:
    """The names of what the model calls whose corners are left as they are, in their order by name."""
    corners = Corners(torch.relu)
    with corners:
        part.outputs(theta)
    return sorted(corners.left)


class Widths:
    """The parts of a step with smoothed corners, from the same parts in several runs: a `change` of
    `MeanOfRuns`.

        h = max(2 std over runs of the corner's input / distance, floor),    entry by entry, at every step

    `distance` is how far the runs' weights are from 1, RMS(W - 1) sqrt(n): so h is twice what one example's
    weight moves the entry.
    """

    def __init__(self, distance: float, floor: float) -> None:
        self._distance, self._floor = distance, floor

    def __call__(self, parts: Sequence[Part], thetas: Sequence[Tensor]) -> list[Part]:
        """The parts with smoothed corners; as they are, where the model has none."""
        pairs = zip(parts, thetas, strict=True)
        inputs = [inputs_of_corners(part, theta) for part, theta in pairs]
        if len({tuple(a.shape for a in each) for each in inputs}) > 1:
            raise InputError(
                "smooth: the model computes other corners in one run than in another, as where values decide "
                "what is computed; use dit"
            )
        if not inputs[0]:
            return list(parts)
        widths = [self._width(torch.stack(a)) for a in zip(*inputs, strict=True)]
        return [part.within(_within, widths) for part in parts]

    def _width(self, a: Tensor) -> Tensor:
        """Of the entries of one corner's input, from those of the runs [run, ...]; 1 for one run, of which
        only the form is asked."""
        if len(a) == 1:
            return torch.ones_like(a[0])
        moved = a.std(0, correction=0)
        h = 2 * moved / self._distance if self._distance else torch.zeros_like(moved)
        return h.clamp(min=self._floor)


def _within(widths: Sequence[Tensor]) -> Corners:
    each = iter(widths)
    return Corners(lambda a: smoothed(a, next(each)))
