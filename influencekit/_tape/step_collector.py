"""The micro-batches of the present step: which examples the loop forwarded, in which random state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from influencekit._tape.causes import Forward, inside_backward, loss_fails, no_batch, no_step, part_of
from influencekit._tape.hypotheses import some_entries
from influencekit._tape.index_entry import find_index, without
from influencekit._tape.loader import IndexedBatch, StoredBatch
from influencekit._tape.replica import Call, Micro, modes, on_device
from influencekit._tape.rng import capture
from influencekit._tape.scaling import Scaling
from influencekit._training.checks.non_finite import LOWER_RATE, blamed, diverged
from influencekit.errors import InfluenceKitError, InputError

__all__ = ["Reduction", "StepCollector"]

Reduction = str | Callable[[Any], Tensor]


@dataclass
class _Forwarded:
    """A micro-batch that was forwarded, the generators before it, its losses, and whether it was random."""

    pending: IndexedBatch | StoredBatch
    rng: bytes
    delivered: bytes | None  # the generators when the loop got the batch, where `forward=` may draw first
    loss: Tensor | None = None
    random: bool | None = None
    skipped: bool = False  # no update followed, since gradients were not finite

    def drawn_from(self, early: bool) -> bytes | None:
        """The generators from which the pass began; None where it has drawn nothing."""
        if early and self.delivered is not None:
            return self.delivered if self.random or self.delivered != self.rng else None
        return self.rng if self.random else None


class StepCollector:
    """Collects the micro-batches of one step after the other. `step` is the number of the present one."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, call: Call, reduction: Reduction,
        accumulate: int | None,
    ) -> None:  # fmt: skip
        self.model, self.call, self.step = model, call, 0
        self.training, self._modules = modes(model), list(model.modules())
        self.autocast: torch.dtype | None = None
        self.queue: deque[tuple[IndexedBatch | StoredBatch, bytes | None]] = deque()
        self.forward_draws: bool | None = None  # whether `forward=` draws before the model; None: not known
        self.forwarded: list[_Forwarded] = []
        self.watch_left = False  # the step will be replayed
        self.replaying = False  # just now
        self.ids: Any = None  # as they were delivered last
        self.delivered, self.passed_over = 0, 0  # batches, so far
        self.passed_over_now = 0  # since the last step
        self.left: Tensor | None = None  # of the gradients that were there when the step began
        self._reduction, self._accumulate = reduction, accumulate
        self._optimizer, self._had_gradient = optimizer, False
        self._carried, self._new_epoch = 0, False  # micro-batches of the epoch before
        self.dropped: Callable[[], Any] = lambda: None  # called when these turn out to be in no step
        self.scaling = Scaling()
        self.keep_skipped = False  # whether batches without an update change buffers, so that they count
        self._equal: dict[tuple[Any, ...], np.ndarray] = {}  # coefficients by type and sizes
        first = next(p for p in model.parameters() if p.requires_grad)
        self._device, self._dtype = first.device, first.dtype
        self._first = True
        self.check_modes: Callable[..., None] = lambda training, autocast: None  # those of a resumed run
        self._shape: list[int] | None = None  # of what the model was called with
        self.index_entry: int | str | None = None  # the entry of batches that numbers the examples
        self.drop_entry: Callable[[], None] = lambda: None
        self.begins: Callable[[int], None] = lambda step: None  # called at its first forward pass
        self.merged: Callable[..., Any] = lambda *step: step  # with what other ranks have of the step

    @property
    def reduction(self) -> str:
        """`mean`, `sum`, or `given` by a function."""
        return self._reduction if isinstance(self._reduction, str) else "given"

    @property
    def _batch_is_read(self) -> bool:
        """Whether something else than model and loss gets the batch, whole."""
        return callable(self._reduction) or self.call.penalty is not None

    def push(self, pending: IndexedBatch | StoredBatch) -> None:
        """This is forwarded next, after what was pushed before."""
        if not len(pending.indices):
            raise InputError(f"step {self.step}: a batch without examples; leave it out")
        n = len(self.call.data)
        least, most = min(pending.indices, default=0), max(pending.indices, default=0)
        if least < 0 or most >= n:
            wrong = least if least < 0 else most
            raise InputError(f"position {wrong} is outside the data set, which has 0 to {n - 1}")
        watched = self.call.forward is not None and self.forward_draws is not False
        self.delivered += 1
        self.queue.append((pending, capture(self._device) if watched else None))

    @property
    def divisor(self) -> int:
        """By what each loss of the present step is divided."""
        return self._accumulate or max(self._due, 1)

    @property
    def _due(self) -> int:
        """How many micro-batches wait for an update."""
        return sum(not micro.skipped for micro in self.forwarded)

    def nothing_due(self) -> bool:
        """Whether no batch waits for an update."""
        return not self._due

    def check_due(self) -> None:
        """Refuse an update for which no batch was forwarded."""
        if self.nothing_due():
            forward = self.call.forward is not None
            raise InputError(no_step(self.step, self.delivered, bool(self.queue), forward))

    def skip(self) -> None:
        """No update follows what was forwarded: leave it out, or let it change the buffers alone."""
        for micro in self.forwarded:
            micro.skipped = True
        if not self.keep_skipped:
            self.forwarded = []
        self._carried, self._had_gradient = 0, False

    def pass_over(self) -> None:
        """The loop has gone on without forwarding what was delivered."""
        self.passed_over += len(self.queue)
        self.passed_over_now += len(self.queue)
        self.queue.clear()

    def begin_epoch(self) -> None:
        """Micro-batches that wait for their step may come into the first one of the new epoch."""
        self._carried, self._new_epoch = self._due, True

    def _trained(self) -> Iterable[Tensor]:
        return (p for group in self._optimizer.param_groups for p in group["params"])

    def _gradient(self) -> bool:
        return any(p.grad is not None and bool(p.grad.any()) for p in self._trained())

    def _carry(self) -> None:
        """The first forward pass of an epoch: have the gradients of the last one been dropped?"""
        self._new_epoch = False
        if self._carried and not self._gradient():
            self.forwarded, self._carried, self._had_gradient = [], 0, False
            self.dropped()

    def check_done(self, ended: bool = False) -> None:
        """Refuse to go on while a whole batch waits for its optimizer step. `ended`: the loop is over."""
        whole = self._accumulate is not None and self._due >= self._accumulate + self._carried
        scales = self.scaling.known or self.autocast is torch.float16
        if self._due and (whole or scales) and self.scaling.skipped(self._trained()):
            self.skip()
        if ended:  # what a GradScaler skipped, and kept since its forward pass changed buffers
            self.forwarded = [micro for micro in self.forwarded if not micro.skipped]
        if self.nothing_due():
            return
        if ended and not self._gradient():  # forwarded alone
            self.forwarded = []
            return
        if self._accumulate is None:
            there = any(p.grad is not None for p in self._trained()) if self.forwarded else False
            if self.forwarded and (ended or (self._had_gradient and not there)):
                raise InputError(
                    f"step {self.step}: a batch was forwarded, and no optimizer step followed; call "
                    "optimizer.step() before gradients are zeroed, and after the last batch"
                    f"{self.scaling.hint(there)}"
                )
            self._had_gradient = there
            return
        if whole:
            raise InputError(
                f"step {self.step}: a batch was forwarded, and no optimizer step followed; if the loop "
                f"accumulates gradients over more than {self._accumulate}, pass accumulate=..., and call "
                f"optimizer.step() after every such group{self.scaling.hint(self._gradient())}"
            )

    def before_forward(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """The model is about to run, on these arguments."""
        if any(x is self.ids for x in args if x is not None):
            raise InputError(
                f"step {self.step}: the model was called with the ids; tape.batches gives them first: write "
                "for ids, (inputs, target) in tape.batches(loader)"
            )
        if not torch.is_grad_enabled():
            return
        if self.replaying:
            raise InputError(
                f"step {self.step}: forward= or loss= runs the loop's own model, so a replay would see other "
                "weights than the step's; use the model that forward(model, batch) is given"
            )
        self._shape = Forward.shape_of(args, kwargs)
        if not self.queue:
            if (self.call.forward is not None and self.forwarded) or not self.model.training:
                return
            last = self.forwarded[-1].pending if self.forwarded else None
            rows, part = (
                (0, False) if last is None else (len(last.indices), part_of(args, kwargs, last.batch))
            )
            here, backward = len(self.forwarded), inside_backward()
            seen = Forward(self._shape, self.delivered, self.passed_over, here, rows, part, backward)
            raise InputError(no_batch(self.step, seen))
        if self._new_epoch:
            self._carry()
        self.check_done()
        kind = self._device.type
        cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        first = self._first
        if first:
            now = modes(self.model)
            self.check_modes(now, cast)
            self.training, self.autocast, self._first = now, cast, False
        if [module.training for module in self._modules] != list(self.training.values()):
            now = modes(self.model)
            odd = next(name for name in now if now[name] != self.training.get(name))
            raise InputError(
                f"step {self.step}: module {odd or 'model'} changed between training and evaluation mode; a "
                "run is recorded in one mode: call model.train() after every evaluation"
            )
        if cast != self.autocast:
            raise InputError(f"step {self.step}: autocast changed from {self.autocast} to {cast}")
        self.note_random()
        if not self.forwarded and self.watch_left:
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            self.left = some_entries(grads) if grads else None
        if self.nothing_due():
            self.begins(self.step)
            self.scaling.begin()
        pending, delivered = self.queue.popleft()
        if first and self.call.forward is None and pending.batch is not None and self.index_entry is None:
            self.index_entry = find_index(
                self.model, args, kwargs, pending.batch, self.call.loss, self.call.target_key,
                () if self._batch_is_read else pending.indices, self.call.data,
            )  # fmt: skip
            if self.index_entry is not None:
                self.drop_entry()
        if self.index_entry is not None:
            pending = pending._replace(batch=without(pending.batch, self.index_entry))
        self.forwarded.append(_Forwarded(pending, capture(self._device), delivered))

    def after_forward(self, outputs: Any) -> None:
        """The model has run: keep the losses where they follow from its outputs."""
        if not (self.forwarded and torch.is_grad_enabled()) or self.call.forward is not None:
            return
        micro = self.forwarded[-1]
        if micro.loss is None and micro.pending.batch is not None:
            with torch.no_grad():
                batch = on_device(micro.pending.batch, self._device)
                try:
                    micro.loss = self.call.losses(outputs, batch, len(micro.pending.indices))
                except InfluenceKitError:
                    raise
                except Exception as error:  # the user's loss, on what it was not made for
                    rows = (self._shape or [0])[0], len(micro.pending.indices)
                    raise InputError(loss_fails(self.step, error, *rows)) from error

    def inside(self) -> None:
        """A module of the model is about to run: where `forward=` says what the loop runs of it, a batch that
        was delivered is forwarded now, whether the model itself is called or not."""
        if self.queue:
            self.before_forward((), {})

    def assume_forwarded(self) -> None:
        """An optimizer step comes: the batch that was delivered has been forwarded without any module."""
        if self.call.forward is not None and self.queue and not self.forwarded:
            self.before_forward((), {})

    def note_random(self) -> None:
        """Note whether the last micro-batch has drawn random numbers."""
        if self.forwarded and self.forwarded[-1].random is None:
            self.forwarded[-1].random = capture(self._device) != self.forwarded[-1].rng

    def micros(self, early: bool) -> list[Micro]:
        """The micro-batches of the step; `early`: with the generators as they were at delivery."""
        self.note_random()
        found, start = [], 0
        for micro in self.forwarded:
            indices, rng = micro.pending.indices, micro.pending.rng
            slots = slice(start, start + len(indices) + (self.call.penalty is not None))
            rows = getattr(micro.pending, "rows", None)
            found.append(Micro(slots, indices, rng, micro.drawn_from(early), rows))
            start = slots.stop
        return found

    def finish_step(self) -> tuple[list[Micro], np.ndarray, np.ndarray]:
        """Micro-batches, coefficients and losses [slot] (NaN where unknown) of the step; on to the next."""
        micros, coefficients, losses = self.micros(bool(self.forward_draws)), [], []
        divisor = self.divisor
        for micro in self.forwarded:
            n = len(micro.pending.indices)
            coefficients.append(np.zeros(n) if micro.skipped else self._coefficients(micro, divisor))
            if micro.loss is None:
                losses.append(np.full(n, np.nan))
            else:
                losses.append(micro.loss.detach().double().cpu().numpy())
                if not np.isfinite(losses[-1]).all():
                    advice = f"what came before is kept; {self._blamed(micro) or LOWER_RATE}"
                    raise diverged("training loss", self.step, advice)
            if self.call.penalty is not None:
                coefficients.append(np.full(1, 0.0 if micro.skipped else 1 / divisor))
                losses.append(np.full(1, np.nan))
        self.forwarded, self.passed_over_now = [], 0
        self._carried, self._had_gradient = 0, False
        self.step += 1
        if len(coefficients) == 1:
            return self.merged(micros, coefficients[0], losses[0])
        return self.merged(micros, np.concatenate(coefficients), np.concatenate(losses))

    def _blamed(self, micro: _Forwarded) -> str | None:
        """Which examples of a micro-batch, by position, are behind losses that are not finite."""
        if micro.pending.batch is None or micro.loss is None:
            return None
        batch = on_device(micro.pending.batch, self._device)
        return blamed(batch, self.call.target(batch), micro.loss, micro.pending.indices)

    def _coefficients(self, micro: _Forwarded, divisor: int) -> np.ndarray:
        pending, n = micro.pending, len(micro.pending.indices)
        if not isinstance(self._reduction, str):
            batch = pending.batch
            if batch is None:
                batch = self.call.batch(Micro(slice(0, n), pending.indices, pending.rng, None), self._device)
            given = torch.as_tensor(self._reduction(batch), dtype=torch.float64).cpu()
            if given.shape not in ((), (1,), (n,)):
                raise InputError(
                    f"reduction= must give one number, or one for each of the {n} examples of the batch, and "
                    f"gave shape {list(given.shape)}"
                )
            if not bool(given.isfinite().all()):
                raise InputError(
                    f"reduction= gave {float(given.flatten()[0])} for the batch of step {self.step}; "
                    "expected finite numbers: where nothing in a batch counts, give 0"
                )
            given = given.expand(n)
            return given.numpy() / divisor
        dtype = self._dtype if micro.loss is None else micro.loss.dtype  # frozen weights may be in bfloat16
        if (n, divisor, dtype) not in self._equal:  # rounded as backward of `losses.mean() / divisor` rounds
            value = torch.ones((), dtype=dtype) / divisor
            equal = np.full(n, float(value / n if self._reduction == "mean" else value))
            self._equal[n, divisor, dtype] = equal
        return self._equal[n, divisor, dtype]
