"""The micro-batches of the present step: which examples the loop forwarded, in which random state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from influencekit._tape.loader import IndexedBatch
from influencekit._tape.replica import Call, Micro, modes, on_device
from influencekit._tape.rng import capture
from influencekit._training.checks.non_finite import LOWER_RATE, blamed, diverged
from influencekit.errors import InputError

__all__ = ["Reduction", "StepCollector"]

Reduction = str | Callable[[Any], Tensor]


@dataclass
class _Forwarded:
    """A micro-batch that was forwarded, the generators before it, its losses, and whether it was random."""

    pending: IndexedBatch
    rng: bytes
    delivered: bytes | None  # the generators when the loop got the batch, where `forward=` may draw first
    loss: Tensor | None = None
    random: bool | None = None
    skipped: bool = False  # no update followed, since its gradients were not finite

    def drawn_from(self, early: bool) -> bytes | None:
        """The generators from which the pass began; None where it has drawn nothing."""
        if early and self.delivered is not None:
            return self.delivered if self.random or self.delivered != self.rng else None
        return self.rng if self.random else None


class StepCollector:
    """Collects the micro-batches of one step after the other. `step` is the number of the present one."""

    def __init__(
        self, model: nn.Module, call: Call, reduction: Reduction, accumulate: int, scaler: Any = None
    ) -> None:
        self.model, self.call, self.step = model, call, 0
        self.training, self._modules = modes(model), list(model.modules())
        self.autocast: torch.dtype | None = None
        self.queue: deque[tuple[IndexedBatch, bytes | None]] = deque()
        self.forward_draws: bool | None = None  # whether `forward=` draws before the model; None: not known
        self.forwarded: list[_Forwarded] = []
        self._reduction, self._accumulate, self._scaler = reduction, accumulate, scaler
        self.keep_skipped = False  # whether batches without an update change buffers, so that they count
        self.scale = 1.0  # by which the scaler multiplies the loss of the present step
        self._equal: dict[int, np.ndarray] = {}  # coefficients by the size of a micro-batch
        first = next(model.parameters())
        self._device, self._dtype = first.device, first.dtype
        self._first = True

    def push(self, pending: IndexedBatch) -> None:
        """This is forwarded next, after what was pushed before."""
        n = len(self.call.data)
        if wrong := [i for i in pending.indices if not 0 <= i < n]:
            raise InputError(f"position {wrong[0]} is outside the data set, which has 0 to {n - 1}")
        watched = self.call.forward is not None and self.forward_draws is not False
        self.queue.append((pending, capture(self._device) if watched else None))

    def check_done(self) -> None:
        """Refuse to go on while a whole batch waits for its optimizer step, which no GradScaler skipped."""
        if sum(not micro.skipped for micro in self.forwarded) < self._accumulate:
            return
        if self._was_skipped():
            self.skip()
            return
        scaled = "" if self._scaler is not None or self._has_gradients() else (
            "; if a GradScaler skipped it, pass scaler=... to the tape, since the gradients are gone"
        )  # fmt: skip
        raise InputError(
            f"step {self.step}: a batch was forwarded, and no optimizer step followed; if the loop "
            f"accumulates gradients over more than {self._accumulate}, pass accumulate=..., and call "
            f"optimizer.step() after every such group{scaled}"
        )

    def skip(self) -> None:
        """No update follows what was forwarded: leave it out, or let it change the buffers alone."""
        for micro in self.forwarded:
            micro.skipped = True
        if not self.keep_skipped:
            self.forwarded = []

    def nothing_due(self) -> bool:
        """Whether no batch waits for an update."""
        return all(micro.skipped for micro in self.forwarded)

    def _was_skipped(self) -> bool:
        """Whether the scaler found infinite gradients, upon which it lowers its scale; without the scaler,
        whether they still stand there."""
        if self._scaler is not None:
            return float(self._scaler.get_scale()) < self.scale
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return not all(bool(g.isfinite().all()) for g in grads)

    def _has_gradients(self) -> bool:
        return any(p.grad is not None and bool(p.grad.any()) for p in self.model.parameters())

    def before_forward(self) -> None:
        """The model is about to run."""
        if not torch.is_grad_enabled():
            return
        if not self.queue:
            if (self.call.forward is not None and self.forwarded) or not self.model.training:
                return
            raise InputError(
                f"step {self.step}: the model ran forward, with gradients, on no new batch of tape.batches; "
                "evaluate under torch.no_grad(); if the loss calls the model several times, pass forward=..."
            )
        self.check_done()
        kind = self._device.type
        cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        if self._first:
            self.training, self.autocast, self._first = modes(self.model), cast, False
        if [module.training for module in self._modules] != list(self.training.values()):
            now = modes(self.model)
            odd = next(name for name in now if now[name] != self.training.get(name))
            raise InputError(
                f"step {self.step}: module {odd or 'model'} changed between training and evaluation mode; a "
                "run is recorded in one mode"
            )
        if cast != self.autocast:
            raise InputError(f"step {self.step}: autocast changed from {self.autocast} to {cast}")
        self.note_random()
        if self._scaler is not None and self.nothing_due():
            self.scale = float(self._scaler.get_scale())
        pending, delivered = self.queue.popleft()
        self.forwarded.append(_Forwarded(pending, capture(self._device), delivered))

    def after_forward(self, outputs: Any) -> None:
        """The model has run: keep the losses where they follow from its outputs."""
        if not (self.forwarded and torch.is_grad_enabled()) or self.call.forward is not None:
            return
        micro = self.forwarded[-1]
        if micro.loss is None and micro.pending.batch is not None:
            with torch.no_grad():
                batch = on_device(micro.pending.batch, self._device)
                micro.loss = self.call.losses(outputs, batch, len(micro.pending.indices))

    def note_random(self) -> None:
        """Note whether the last micro-batch has drawn random numbers."""
        if self.forwarded and self.forwarded[-1].random is None:
            self.forwarded[-1].random = capture(self._device) != self.forwarded[-1].rng

    def micros(self, early: bool) -> list[Micro]:
        """The micro-batches of the step; `early`: with the generators as they were at delivery."""
        self.note_random()
        found, start = [], 0
        for micro in self.forwarded:
            indices, rng, _ = micro.pending
            slots = slice(start, start + len(indices))
            found.append(Micro(slots, indices, rng, micro.drawn_from(early)))
            start = slots.stop
        return found

    def finish_step(self) -> tuple[list[Micro], np.ndarray, np.ndarray]:
        """Micro-batches, coefficients and losses [slot] (NaN where unknown) of the step; on to the next."""
        micros, coefficients, losses = self.micros(bool(self.forward_draws)), [], []
        for micro in self.forwarded:
            n = len(micro.pending.indices)
            coefficients.append(np.zeros(n) if micro.skipped else self._coefficients(micro.pending))
            if micro.loss is None:
                losses.append(np.full(n, np.nan))
            else:
                losses.append(micro.loss.detach().double().cpu().numpy())
                if not np.isfinite(losses[-1]).all():
                    advice = f"what came before is kept; {self._blamed(micro) or LOWER_RATE}"
                    raise diverged("training loss", self.step, advice)
        self.forwarded = []
        self.step += 1
        if len(micros) == 1:
            return micros, coefficients[0], losses[0]
        return micros, np.concatenate(coefficients), np.concatenate(losses)

    def _blamed(self, micro: _Forwarded) -> str | None:
        """Which examples of a micro-batch, by position, are behind losses that are not finite."""
        if micro.pending.batch is None or micro.loss is None:
            return None
        batch = on_device(micro.pending.batch, self._device)
        return blamed(batch, self.call.target(batch), micro.loss, micro.pending.indices)

    def _coefficients(self, pending: IndexedBatch) -> np.ndarray:
        n = len(pending.indices)
        if not isinstance(self._reduction, str):
            batch = pending.batch
            if batch is None:
                batch = self.call.batch(Micro(slice(0, n), pending.indices, pending.rng, None), self._device)
            given = torch.as_tensor(self._reduction(batch), dtype=torch.float64).cpu().expand(n)
            return given.numpy() / self._accumulate
        if n not in self._equal:  # rounded as backward of `losses.mean() / accumulate` rounds
            value = torch.ones((), dtype=self._dtype) / self._accumulate
            self._equal[n] = np.full(n, float(value / n if self._reduction == "mean" else value))
        return self._equal[n]
