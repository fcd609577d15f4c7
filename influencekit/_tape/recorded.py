"""The parts of a taped run's steps: its micro-batches, fetched again, in the random state of the loop."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from influencekit._tape.random_draws import RandomDraws
from influencekit._tape.replica import Call, Micro, Replica, few_of, is_large
from influencekit._tape.rng import preserved_random, setter
from influencekit._training.batch import Batch, batch_in_float64, select, tensors_of
from influencekit._training.buffers import buffers_in_float64
from influencekit._training.checks.separability import BATCH_STATISTICS
from influencekit._training.functional import called
from influencekit._training.kernels.operators import plain_operators
from influencekit._training.loss_by_part import Parts
from influencekit._training.losses import Training
from influencekit._training.parts import Gradient, Part
from influencekit._training.plan import Plan
from influencekit._training.state import State
from influencekit._training.workload import Within, Workload

__all__ = ["Recorded"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """The `PartSource` of a taped run. One model is advanced exactly as the loop did, by `backward`; many
    models, and derivatives, go by plain operators, derivatives without autocast.

    `micros(t)` are the micro-batches of step t, `first()` is the recorded state 0, `autocast` the loop's
    dtype or None, `changing` are the names of the buffers that training changes. `random`: whether a forward
    pass draws random numbers; `separable`: whether losses depend on their own example alone; `scales`: the
    factors of a GradScaler, each with its first step.
    """

    workload: Workload
    call: Call
    micros: Callable[[int], list[Micro]]
    first: Callable[[], State]
    autocast: torch.dtype | None = None
    random: bool = False
    changing: tuple[str, ...] = ()
    separable: bool = True
    scales: tuple[tuple[int, float], ...] = ()

    eager = True
    checked = True

    @property
    def plan(self) -> Plan:
        """The recorded plan."""
        return self.workload.plan

    @property
    def rounds(self) -> bool:
        """Whether the loop's losses were computed in lower precision."""
        return self.autocast is not None

    @property
    def joint(self) -> bool:
        """Whether steps hand buffers on. (Parts are never padded, whatever their losses depend on.)"""
        return bool(self.changing)

    @property
    def traceable(self) -> bool:
        """Whether kernels of one micro-batch serve others of its shape."""
        return not (self.random or self.joint or self._large)

    @property
    def alone(self) -> bool:
        """Whether models are trained one after the other: low precision rounds otherwise in a batch."""
        return self.joint or self.rounds or self._large

    @cached_property
    def _large(self) -> bool:
        return is_large(self.workload.model)

    @property
    def undivided(self) -> str:
        """Why a micro-batch cannot be computed a few examples at a time; "" where it can."""
        normed = any("BatchNorm" in type(m).__name__ and m.training for m in self.workload.model.modules())
        whole = {
            f"training changes the buffer {''.join(self.changing[:1])}, which sees whole batches": self.joint,
            "the loss of an example depends on the others of its batch": normed or not self.separable,
            "random numbers are drawn for whole batches (dropout)": self.random,
            "penalty= takes the outputs or the batch": bool(self.call.penalty_takes),
        }
        return next((why for why, applies in whole.items() if applies), "")

    @property
    def caution(self) -> str:
        """What results must say of how losses depend on their batch; nothing as a rule."""
        said = []
        if not self.separable:
            said.append(
                "the loss of an example depends on the others of its batch: a removed example stays there, "
                "and only its own loss is left out"
            )
        if any("BatchNorm" in type(m).__name__ and m.training for m in self.workload.model.modules()):
            said.append(BATCH_STATISTICS)
        for dtype in _half(self.workload.model):
            said.append(
                f"frozen weights are {dtype}, in which losses and their derivatives are computed: scores "
                "have two digits or three"
            )
        return "; ".join(said)

    def start(self) -> State:
        """The recorded state 0."""
        return self.first()

    def protected(self) -> AbstractContextManager[None]:
        """The generators stay as they were: losses put them where the loop had them."""
        return preserved_random(self.workload.device)

    def _fetched(self, t: int) -> Iterator[tuple[Micro, Batch]]:
        for micro in self.micros(t):
            yield micro, self.call.batch(micro, self.workload.device)

    def parts(self, state: State, padded: bool = False) -> Iterator[Part]:
        """The micro-batches, each with the buffers that the one before left, as derivatives see them."""
        buffers = state.buffers
        for micro, batch in self._fetched(state.step):
            with self.protected():
                losses = self._losses(micro.forward_rng, state.theta, buffers, batch)
                yield Part(micro.slots, batch, losses)
                if buffers:
                    with torch.no_grad():
                        buffers = losses.with_buffers_after(losses.z(state.theta), batch)[1]

    def few(self, state: State) -> Part:
        """A few examples of the first micro-batch, forwarded alone, as no micro-batch was."""
        micro, batch = next(self._fetched(state.step))
        rows = torch.arange(min(few_of(self.workload.model), len(micro.indices)), device=state.theta.device)
        some, slots = select(batch, rows), rows + micro.slots.start
        if self.call.penalty is not None:
            slots = torch.cat([slots, slots.new_tensor([micro.slots.stop - 1])])
        return Part(slots, some, self._losses(micro.forward_rng, state.theta, state.buffers, some))

    @cached_property
    def _replica(self) -> Replica:
        return Replica(self.workload.model, self.call)

    def gradient(self, state: State, coefficients: Tensor) -> Gradient:
        """As the loop took it, and where the loop left the buffers."""
        fetched = list(self._fetched(state.step))
        micros = [(batch, coefficients[micro.slots], micro.forward_rng) for micro, batch in fetched]
        g, found, buffers = self._replica.gradient(
            self.workload.layout, state.theta, state.buffers, micros, self.autocast, self._scale(state.step)
        )
        losses = coefficients.new_zeros(coefficients.shape)
        for (micro, _), values in zip(fetched, found, strict=True):
            losses[micro.slots] = values.to(losses)
        return Gradient(g, losses, buffers)

    def _scale(self, t: int) -> float:
        known = bisect_right(self.scales, t, key=lambda change: change[0])
        return self.scales[known - 1][1] if known else 1.0

    def _losses(
        self, rng: bytes | None, theta: Tensor, buffers: Mapping[str, Tensor], batch: Batch
    ) -> Training:
        """The losses of a micro-batch in training mode, with the random numbers that the loop drew for it.

        `theta` [param] and `buffers` are where the run stands. The generators are left where the noise ended:
        whoever calls keeps them.
        """
        workload, draws, begin, penalty = self.workload, None, None, self.call.penalty

        def run(
            theta: Tensor, buffers: Mapping[str, Tensor], batch: Batch, within: Within = nullcontext
        ) -> tuple[Any, dict[str, Tensor]]:
            parameters, of_batch = workload.layout.split(theta), partial(self.call.penalised, batch=batch)
            return called(workload.model, parameters, buffers, of_batch, within)

        if rng is not None and self.random:
            begin = setter(rng, workload.device)
            with self.protected():
                begin()
                with self._cast(self.autocast):
                    draws = RandomDraws(lambda: run(theta, buffers, batch))

        def training(autocast: torch.dtype | None) -> Training:
            def call(
                theta: Tensor, buffers: Mapping[str, Tensor], batch: Batch, within: Within
            ) -> tuple[Any, dict[str, Tensor]]:
                with self._cast(autocast), draws.replayed() if draws is not None else nullcontext():
                    if begin is not None:
                        begin()
                    return run(theta, buffers, batch, within)

            def loss_of(outputs: Any, batch: Batch) -> Tensor:
                with self._cast(autocast), plain_operators():
                    count = len(tensors_of(batch)[0])
                    return self.call.penalised_losses(outputs, batch, count).to(theta.dtype)

            def parts_of(outputs: Any, batch: Batch) -> Parts:
                with self._cast(autocast), plain_operators():
                    return self.call.penalised_parts(outputs, batch).to(theta.dtype)

            return Training(
                call, loss_of, workload.n_params, buffers, autocast=autocast, penalty=penalty is not None,
                parts_of=parts_of,
            )  # fmt: skip

        def wide() -> Training:
            double = replace(self, workload=workload.in_double())
            return double._losses(rng, theta.double(), buffers_in_float64(buffers), batch_in_float64(batch))

        rounded = None if self.autocast is None else partial(training, self.autocast)
        return replace(training(None), wide=wide, rounded=rounded)

    def _cast(self, dtype: torch.dtype | None) -> torch.autocast:
        return torch.autocast(self.workload.device.type, dtype=dtype, enabled=dtype is not None)


def _half(model: nn.Module) -> list[torch.dtype]:
    """The types of lower precision than float32 among a model's parameters."""
    kinds = {p.dtype for p in model.parameters()}
    return [dtype for dtype in (torch.bfloat16, torch.float16) if dtype in kinds]
