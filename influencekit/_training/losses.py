"""The losses of one batch of a run as functions of what training changes: parameters and buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from influencekit._training.batch import Batch, tensors_of, with_tensors
from influencekit._training.buffers import buffers_in_float64, by_formula, flat, seen_through, with_flat
from influencekit._training.kernels.operators import plain_operators
from influencekit._training.loss_by_part import Parts
from influencekit._training.workload import Within, Workload
from influencekit.errors import InputError

__all__ = ["Training", "by_backward", "by_transform"]

Call = Callable[[Tensor, Mapping[str, Tensor], Batch, Within], tuple[Any, dict[str, Tensor]]]


@dataclass(frozen=True, eq=False)
class Training:
    """Losses as functions of z [param + buffer]: theta [param], then the floating-point buffers that change.

    `call(theta, buffers, batch, within)` gives the model's outputs in the mode that it trains in, and the
    buffers after; `loss_of(outputs, batch)` the losses [slot]; `buffers` are those before the step, empty for
    most models, where z is theta itself. `l2` is the penalty's factor, `size` the length of theta; `wide`
    gives the same of a copy in float64, `rounded` the same in the precision of the recorded loop, which is
    the `autocast` of those. `penalty`: the last loss is that of a penalty, and no example's. `parts_of` gives
    the losses by part, where the loss tells parts apart.
    """

    call: Call
    loss_of: Callable[[Any, Batch], Tensor]
    size: int
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    l2: float = 0.0
    wide: Callable[[], Training] | None = None
    rounded: Callable[[], Training] | None = None
    autocast: torch.dtype | None = None
    penalty: bool = False
    parts_of: Callable[[Any, Batch], Parts] | None = None

    def in_double(self) -> Training:
        """The same losses, of a copy of the model in float64."""
        assert self.wide is not None
        return self.wide()

    def z(self, theta: Tensor) -> Tensor:
        """theta and the buffers as one vector."""
        return torch.cat([theta, flat(self.buffers, theta)]) if self.buffers else theta

    def outputs(self, z: Tensor, batch: Batch) -> Any:
        """The model's outputs."""
        return self._run(z, batch)[0]

    def losses(self, z: Tensor, batch: Batch) -> Tensor:
        """Per-example losses [slot], without the penalty."""
        return self.loss_of(self.outputs(z, batch), batch)

    def with_buffers_after(self, z: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [slot], and the buffers after the step as plain values."""
        outputs, after = self._run(z, batch)
        return self.loss_of(outputs, batch), {name: b.detach() for name, b in after.items()}

    def updated(self, z: Tensor, batch: Batch) -> Tensor:
        """The floating-point buffers [buffer] after the step; differentiable, whatever the model hides."""
        try:
            after = flat(self._run(z, batch, seen_through)[1], z)
        except (RuntimeError, TypeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            line = (str(error).splitlines() or [""])[0][:90]
            raise InputError(
                f"the model updates its buffers in a way that derivatives cannot follow ({line}), so "
                "first-order scores would be wrong; use loo, or update them by operations of torch"
            ) from error
        return after if after.requires_grad else after + 0 * z.sum()

    def within(
        self, context: Callable[[Sequence[Tensor]], AbstractContextManager[Any]], like: Batch, count: int
    ) -> Training:
        """The same losses of batches (*tensors of a batch in the form of `like`, *`count` more), the outputs
        computed within `context(the more)`."""

        def own(batch: Batch) -> Batch:
            return with_tensors(like, tensors_of(batch)[:-count])

        def call(theta: Tensor, buffers: Any, batch: Batch, within: Within) -> tuple[Any, dict[str, Tensor]]:
            with context(tensors_of(batch)[-count:]):
                return self.call(theta, buffers, own(batch), within)

        def loss_of(outputs: Any, batch: Batch) -> Tensor:
            return self.loss_of(outputs, own(batch))

        return replace(self, call=call, loss_of=loss_of, wide=None, rounded=None, parts_of=None)

    def of_theta(self, z: Tensor) -> Tensor:
        """z with 0 in the place of the buffers, which have no penalty."""
        return torch.cat([z[: self.size], torch.zeros_like(z[self.size :])]) if self.buffers else z

    @classmethod
    def of(cls, workload: Workload, buffers: Mapping[str, Tensor] | None = None) -> Training:
        """A workload's losses as a step of its run computes them, with these of the changing buffers."""

        def call(theta: Tensor, *rest: Any) -> tuple[Any, dict[str, Tensor]]:
            return workload.trained(workload.layout.split(theta), *rest)

        def wide() -> Training:
            return cls.of(workload.in_double(), buffers_in_float64(buffers or {}))

        def parts_of(outputs: Any, batch: Batch) -> Parts:
            with plain_operators():
                return workload.calls.parts(outputs, batch)

        n, l2 = workload.n_params, workload.l2
        return cls(call, workload.loss_of, n, buffers or {}, l2, wide, parts_of=parts_of)

    @classmethod
    def evaluated(cls, workload: Workload) -> Training:
        """A workload's losses as queries compute them, in evaluation mode."""

        def call(theta: Tensor, buffers: Any, batch: Batch, within: Within) -> tuple[Any, dict[str, Tensor]]:
            return workload.outputs(theta, batch), {}

        return cls(call, workload.loss_of, workload.n_params, {}, workload.l2)

    def _run(self, z: Tensor, batch: Batch, within: Within = by_formula) -> tuple[Any, dict[str, Tensor]]:
        if not self.buffers:
            return self.call(z, {}, batch, nullcontext)
        return self.call(z[: self.size], with_flat(self.buffers, z[self.size :]), batch, within)


def by_backward(
    workload: Workload, theta: Tensor, buffers: Mapping[str, Tensor], batch: Batch, coefficients: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor], tuple[bool, ...]]:
    """Gradient [param] of the weighted losses in training mode, the losses, the buffers after, and which
    parameters have a gradient at all; by `backward`, as any loop does it."""
    leaves = {n: p.detach().requires_grad_() for n, p in workload.layout.split(theta).items()}
    with torch.enable_grad():
        outputs, after = workload.trained(leaves, buffers, batch)
        losses = workload.loss_of(outputs, batch)
        total = (coefficients * losses).sum()
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    pairs = zip(leaves.items(), found, strict=True)
    g = workload.layout.join({n: torch.zeros_like(p) if x is None else x for (n, p), x in pairs})
    used = tuple(x is not None for x in found)
    return g, losses.detach(), {n: b.detach() for n, b in after.items()}, used


def by_transform(view: Training, batch: Batch) -> Callable[..., tuple[Tensor, Tensor]]:
    """The same gradient and losses by torch.func, of (theta, *tensors of a like batch, coefficients)."""

    def gradient(theta: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        def mean_loss(theta: Tensor) -> tuple[Tensor, Tensor]:
            losses = view.losses(theta, with_tensors(batch, rest[:-1]))
            return (rest[-1] * losses).sum(), losses

        return grad(mean_loss, has_aux=True)(theta)

    return gradient
