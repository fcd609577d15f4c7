"""The parts of the steps of a workload whose examples are in memory: one a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property

import torch
from torch import Tensor

from influencekit._training.batch import Batch, select
from influencekit._training.checks.separability import BATCH_STATISTICS, own_losses
from influencekit._training.losses import Training, by_backward
from influencekit._training.parts import Gradient, Part
from influencekit._training.state import State
from influencekit._training.workload import Workload
from influencekit.errors import InputError

__all__ = ["InMemory"]

_FEW = 16  # examples on which derivatives are held against differences


class InMemory:
    """The `PartSource` of a workload that `record` trains: a step is one part.

    Short batches are padded to a common width with weight 0, so that one trace serves every step, unless
    losses depend on their whole batch (batch norm) or training changes buffers.
    """

    rounds = False
    checked = False

    def __init__(self, workload: Workload) -> None:
        self.workload, self.plan = workload, workload.plan
        self._there = (self.plan.indices >= 0).to(workload.device)
        self._rows = self.plan.indices.clamp(min=0).to(workload.device)
        self._used: tuple[bool, ...] | None = None

    @property
    def joint(self) -> bool:
        """Whether a step must see its own batch and nothing else."""
        return bool(self.changing) or self.mixes

    eager = alone = joint

    @property
    def traceable(self) -> bool:
        """Whether kernels of one step serve the others."""
        return not self.joint

    @property
    def undivided(self) -> str:
        """Why a batch cannot be computed a few examples at a time; "" where it can."""
        if self.changing:
            return f"training changes the buffer {self.changing[0]}, which sees whole batches"
        return "the loss of an example depends on the others of its batch" if self.mixes else ""

    @property
    def caution(self) -> str:
        """What results must say of how losses depend on their batch; nothing as a rule."""
        return BATCH_STATISTICS if self.mixes else ""

    @cached_property
    def changing(self) -> tuple[str, ...]:
        """The buffers that training changes, seen at the start and nearby: averages may not move at first."""
        names = [name for name, _ in self.workload.model.named_buffers()]
        if not names:
            return ()
        buffers, found, theta0 = self._own(names), set[str](), self.workload.theta0
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for t, theta in ((0, theta0), (self.plan.steps - 1, 1.01 * theta0 + 1e-3)):
                split = self.workload.layout.split(theta)
                after = self.workload.trained(split, buffers, self.batch(t)[0])[1]
                found |= {n for n in names if not torch.equal(buffers[n], after[n])}
                buffers = after
        return tuple(filter(found.__contains__, names))

    @cached_property
    def mixes(self) -> bool:
        """Whether the loss of an example depends on the others of its batch, as by batch normalisation."""
        with torch.random.fork_rng(devices=[]):
            return not own_losses(self.losses_at_start, self.batch(0)[0])

    def losses_at_start(self, batch: Batch) -> Tensor:
        """Training losses of any batch at the initial parameters."""
        workload = self.workload
        outputs, _ = workload.trained(workload.layout.split(workload.theta0), self._own(self.changing), batch)
        return workload.loss_of(outputs, batch)

    def batch(self, t: int) -> tuple[Batch, Tensor]:
        """The batch of step t without padding, and which of the slots it fills."""
        slots = self._there[t].nonzero().flatten()
        return self.workload.examples(self._rows[t][slots]), slots

    def start(self) -> State:
        """The state before step 0."""
        theta = self.workload.theta0
        return State(theta, self.workload.optimizer.start(theta), 0, self._own(self.changing))

    def _own(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Copies of the model's own buffers."""
        own = dict(self.workload.model.named_buffers()) if names else {}
        return {name: own[name].detach().clone() for name in names}

    def parts(self, state: State, padded: bool = False) -> Iterator[Part]:
        """The whole batch."""
        if padded:
            batch, slots = self.workload.examples(self._rows[state.step]), slice(None)
            yield Part(slots, batch, self._without_buffers)
        else:
            batch, which = self.batch(state.step)
            yield Part(which, batch, Training.of(self.workload, state.buffers))

    @cached_property
    def _without_buffers(self) -> Training:
        return Training.of(self.workload)

    def few(self, state: State) -> Part:
        """A few examples of the batch."""
        batch, slots = self.batch(state.step)
        first = torch.arange(min(_FEW, len(slots)), device=slots.device)
        return Part(slots[first], select(batch, first), Training.of(self.workload, state.buffers))

    def gradient(self, state: State, coefficients: Tensor) -> Gradient:
        """By `backward`. Errors: parameters that the loss reaches now and then."""
        workload, (batch, slots) = self.workload, self.batch(state.step)
        g, found, after, used = by_backward(workload, state.theta, state.buffers, batch, coefficients[slots])
        self._used = self._used or used
        if used != self._used and (workload.optimizer.slots or workload.decays):
            names = zip(workload.layout.names, used, self._used, strict=True)
            odd = next(name for name, now, before in names if now != before)
            raise InputError(
                f"parameter {odd} has a gradient on some batches and none on others, and "
                f"{type(workload.optimizer).__name__} skips it there; multiply by 0 where it is not used, or "
                "train with plain SGD"
            )
        return Gradient(g, found.new_zeros(coefficients.shape).index_copy(-1, slots, found), after)

    def protected(self) -> nullcontext[None]:
        """Nothing to protect: a loss that draws random numbers is refused."""
        return nullcontext()
