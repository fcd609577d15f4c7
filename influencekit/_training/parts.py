"""What a step is a sum of, and where it comes from.

    grad L_t = sum over parts p of  sum_{i in p} (w_i / b) grad [ loss(z_i; theta) + (l2/2) |theta|^2 ]

A part is a micro-batch. A run that `record` trains has one part a step; a tape has as many as the loop had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from influencekit._training.batch import Batch, tensors_of, with_tensors
from influencekit._training.curvature import gradient, leaf
from influencekit._training.losses import Training
from influencekit._training.plan import Plan
from influencekit._training.state import State
from influencekit._training.workload import Workload

__all__ = ["Gradient", "Kernel", "Part", "PartSource", "by_autograd", "summed"]

Kernel = Callable[
    ..., tuple[Tensor, Tensor]
]  # (theta, *tensors of a batch, coefficients) -> gradient, losses


class Part(NamedTuple):
    """A part of a step: the slots of the step that it fills, its examples, and their losses.

    Most runs have one part a step, a loop with micro-batches several.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> part = next(run.step.source.parts(run.state(0)))
        >>> part.outputs(run.state(0).theta).shape
        torch.Size([24])
    """

    slots: Tensor | slice
    batch: Batch
    losses: Training

    def outputs(self, theta: Tensor) -> Any:
        """The model's outputs on its examples at theta [param], as the step computes them."""
        return self.losses.outputs(self.losses.z(theta), self.batch)

    def within(
        self, context: Callable[[Sequence[Tensor]], AbstractContextManager[Any]], more: Sequence[Tensor]
    ) -> Part:
        """The same with `more` tensors [slot, ...] in its batch, and outputs that are computed within
        `context(more)`: kernels that are traced see them as inputs."""
        losses = self.losses.within(context, self.batch, len(more))
        return self._replace(batch=(*tensors_of(self.batch), *more), losses=losses)

    def as_run(self) -> Part:
        """The same with its losses as the run computed them, under its autocast."""
        return self if self.losses.rounded is None else self._replace(losses=self.losses.rounded())

    @property
    def whole(self) -> bool:
        """Whether it fills every slot of its step."""
        return isinstance(self.slots, slice) and self.slots == slice(None)

    @property
    def shape(self) -> tuple[Any, ...]:
        """Shapes and types of its tensors: parts that agree in it can share a trace."""
        return tuple((x.shape, x.dtype) for x in tensors_of(self.batch))


class Gradient(NamedTuple):
    """The gradient of a step [param], its losses [slot], and the buffers after it."""

    value: Tensor
    losses: Tensor
    buffers: dict[str, Tensor] = {}  # noqa: RUF012 (never modified)


class PartSource(Protocol):
    """Where the parts of a run's steps come from.

    `changing`: the buffers that training changes. `caution`: what results must say of the run. `joint`:
    whether a step must see its own batch, unpadded, and hands buffers on. `eager`: whether one model is
    always advanced by `gradient`, to the bits of the recorded loop. `traceable`: whether kernels of one part
    serve another of its shape. `alone`: whether models must be trained one after the other. `rounds`: whether
    the run computed its losses in lower precision than `parts` does. `checked`: whether derivatives were
    looked at when the run was recorded. `undivided`: why a part cannot be computed a few examples at a time;
    "" where it can.
    """

    @property
    def workload(self) -> Workload: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def rounds(self) -> bool: ...
    @property
    def checked(self) -> bool: ...
    @property
    def changing(self) -> tuple[str, ...]: ...
    @property
    def caution(self) -> str: ...
    @property
    def joint(self) -> bool: ...
    @property
    def eager(self) -> bool: ...
    @property
    def traceable(self) -> bool: ...
    @property
    def alone(self) -> bool: ...
    @property
    def undivided(self) -> str: ...

    def start(self) -> State:
        """The state before step 0."""

    def parts(self, state: State, padded: bool = False) -> Iterator[Part]:
        """The parts of a step in their order, each with the buffers that the one before it left.

        `padded`: of one shape in all steps, where the source can; slots without an example have weight 0.
        """

    def few(self, state: State) -> Part:
        """A few examples of the first part, as if they were all of it."""

    def gradient(self, state: State, coefficients: Tensor) -> Gradient:
        """The gradient of one model by `backward`, as the run's own loop takes it, without the penalty."""

    def protected(self) -> AbstractContextManager[None]:
        """Leaves the random generators as they were: losses may put them where the run had them."""


def summed(
    parts: Iterable[Part], theta: Tensor, coefficients: Tensor, kernel: Callable[..., Kernel]
) -> Gradient:
    """The sum of the parts' gradients [..., param], and losses [..., slot].

    `kernel(part, theta, its coefficients)` gives what computes one; theta and coefficients may have a leading
    dimension of models.
    """
    total, losses = None, None
    for part in parts:
        weights = coefficients[..., part.slots]
        g, found = kernel(part, theta, weights)(theta, *tensors_of(part.batch), weights)
        if part.whole:
            return Gradient(g, found)
        total = g if total is None else total + g
        losses = found.new_zeros(coefficients.shape) if losses is None else losses
        losses[..., part.slots] = found
    assert total is not None and losses is not None, "a step has parts"
    return Gradient(total, losses)


def by_autograd(part: Part, theta: Tensor, coefficients: Tensor) -> Kernel:
    """The kernel of a part that differentiates backwards once, with nothing traced."""

    def kernel(theta: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = leaf(part.losses.z(theta))
            losses = part.losses.losses(z, with_tensors(part.batch, rest[:-1]))
            g = gradient((rest[-1] * losses).sum(), z)
        return g[: len(theta)], losses.detach()

    return kernel
