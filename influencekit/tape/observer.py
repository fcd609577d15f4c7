"""The micro-batches of a step as the loop forwards them, matched with the examples that were delivered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from influencekit.errors import DivergedError, InputError
from influencekit.tape.loader import IndexedBatch
from influencekit.tape.replica import Call, Micro, modes, on_device
from influencekit.tape.rng import capture
from influencekit.training.checks.non_finite import blamed

__all__ = ["Observer", "Reduction", "diverged"]

Reduction = str | Callable[[Any], Tensor]


@dataclass
class _Seen:
    """A micro-batch that was forwarded: what it was, and the circumstances."""

    pending: IndexedBatch
    rng: bytes
    delivered: bytes | None  # the generators when the loop got the batch, where `forward=` may draw first
    loss: Tensor | None = None
    random: bool | None = None

    def drawn_from(self, early: bool) -> bytes | None:
        """The generators from which the pass began; None where it has drawn nothing."""
        if early and self.delivered is not None:
            return self.delivered if self.random or self.delivered != self.rng else None
        return self.rng if self.random else None


class Observer:
    """Collects the micro-batches of one step after the other. `step` is the number of the present one."""

    def __init__(self, model: nn.Module, call: Call, reduction: Reduction, accumulate: int) -> None:
        self.model, self.call, self.step = model, call, 0
        self.training, self._modules = modes(model), list(model.modules())
        self.autocast: torch.dtype | None = None
        self.queue: deque[tuple[IndexedBatch, bytes | None]] = deque()
        self.early: bool | None = None  # whether `forward=` draws before the model does; None: not yet known
        self.seen: list[_Seen] = []
        self._reduction, self._accumulate = reduction, accumulate
        self._equal: dict[int, np.ndarray] = {}  # coefficients by the size of a micro-batch
        first = next(model.parameters())
        self._device, self._dtype = first.device, first.dtype
        self._first = True

    def push(self, pending: IndexedBatch) -> None:
        """This is forwarded next, after what was pushed before."""
        n = len(self.call.data)
        if wrong := [i for i in pending.indices if not 0 <= i < n]:
            raise InputError(f"position {wrong[0]} is outside the data set, which has 0 to {n - 1}")
        if len(set(pending.indices)) != len(pending.indices):
            raise InputError(
                f"step {self.step}: an example stands twice in one batch; draw without replacement"
            )
        watched = self.call.forward is not None and self.early is not False
        self.queue.append((pending, capture(self._device) if watched else None))

    def check_done(self) -> None:
        """Refuse to go on while a whole batch waits for its optimizer step."""
        if len(self.seen) >= self._accumulate:
            raise InputError(
                f"step {self.step}: a batch was forwarded, and no optimizer step followed; if the loop "
                f"accumulates gradients over more than {self._accumulate}, pass accumulate=..., and call "
                "optimizer.step() after every such group"
            )

    def forward(self) -> None:
        """The model is about to run with gradients."""
        if not self.queue:
            if (self.call.forward is not None and self.seen) or not self.model.training:
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
        self.settle()
        pending, delivered = self.queue.popleft()
        self.seen.append(_Seen(pending, capture(self._device), delivered))

    def after(self, outputs: Any) -> None:
        """The model's outputs; gives the losses where they follow from them."""
        if not self.seen or self.call.forward is not None:
            return
        seen = self.seen[-1]
        if seen.loss is None and seen.pending.batch is not None:
            with torch.no_grad():
                batch = on_device(seen.pending.batch, self._device)
                seen.loss = self.call.losses(outputs, batch, len(seen.pending.indices))

    def settle(self) -> None:
        """Find out whether the last micro-batch has drawn random numbers."""
        if self.seen and self.seen[-1].random is None:
            self.seen[-1].random = capture(self._device) != self.seen[-1].rng

    def micros(self, early: bool) -> list[Micro]:
        """The micro-batches of the step; `early`: from the generators as they were at delivery."""
        self.settle()
        found, start = [], 0
        for seen in self.seen:
            indices, rng, _ = seen.pending
            slots = slice(start, start + len(indices))
            found.append(Micro(slots, indices, rng, seen.drawn_from(early)))
            start = slots.stop
        return found

    def finish(self) -> tuple[list[Micro], np.ndarray, np.ndarray]:
        """Micro-batches, coefficients and losses [slot] (NaN where unknown) of the step; on to the next."""
        micros, coefficients, losses = self.micros(bool(self.early)), [], []
        for seen in self.seen:
            n = len(seen.pending.indices)
            coefficients.append(self._coefficients(seen.pending))
            if seen.loss is None:
                losses.append(np.full(n, np.nan))
            else:
                losses.append(seen.loss.detach().double().cpu().numpy())
                if not np.isfinite(losses[-1]).all():
                    raise diverged("training loss", self.step, self._blamed(seen))
        self.seen = []
        self.step += 1
        if len(micros) == 1:
            return micros, coefficients[0], losses[0]
        return micros, np.concatenate(coefficients), np.concatenate(losses)

    def _blamed(self, seen: _Seen) -> str | None:
        """Which examples of a micro-batch, by position, are behind losses that are not finite."""
        if seen.pending.batch is None or seen.loss is None:
            return None
        batch = on_device(seen.pending.batch, self._device)
        return blamed(batch, self.call.target(batch), seen.loss, seen.pending.indices)

    def _coefficients(self, pending: IndexedBatch) -> np.ndarray:
        n = len(pending.indices)
        if not isinstance(self._reduction, str):
            batch = pending.batch
            if batch is None:
                batch = self.call.batch(Micro(slice(0, n), pending.indices, pending.rng, None), self._device)
            given = torch.as_tensor(self._reduction(batch)).double().cpu().expand(n)
            return given.numpy() / self._accumulate
        if n not in self._equal:  # rounded as backward of `losses.mean() / accumulate` rounds
            value = torch.ones((), dtype=self._dtype) / self._accumulate
            self._equal[n] = np.full(n, float(value / n if self._reduction == "mean" else value))
        return self._equal[n]


def diverged(what: str, step: int, said: str | None = None) -> DivergedError:
    """The error for what became NaN or infinite at a step; `said`: why, where it shows."""
    return DivergedError(
        f"the {what} became NaN or infinite at step {step}; what came before is kept; "
        f"{said or 'lower the learning rate'}"
    )
