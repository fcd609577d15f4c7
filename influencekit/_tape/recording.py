"""One recording of a loop: its batches, forward passes and optimizer steps are noted, checked and stored."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from influencekit._signals import deferred
from influencekit._tape.change_detector import ConstantTensors
from influencekit._tape.checks.arguments import refuse_hooks
from influencekit._tape.checks.resumed import Resumed
from influencekit._tape.ending import end_store
from influencekit._tape.fingerprint import run_attributes
from influencekit._tape.hyperparameters import HyperParameters
from influencekit._tape.index_entry import WithoutEntry
from influencekit._tape.listen import listen
from influencekit._tape.loader import IndexedBatch
from influencekit._tape.loop_batches import LoopBatches
from influencekit._tape.loop_position import LoopPosition, refuse_early_end, refuse_nothing_new, say_resumed
from influencekit._tape.optimizer import (
    Clip,
    UpdateRule,
    describe_optimizer,
    learning_rates,
    read_slots,
    trained_parameters,
)  # fmt: skip
from influencekit._tape.ranks import at_end, hear, of_all, refuse_buffers, tape_ranks, together, writer_of
from influencekit._tape.reloads import Reloads
from influencekit._tape.replica import Call, changed_buffers
from influencekit._tape.rng import capture
from influencekit._tape.scaling import Scaling
from influencekit._tape.spot_check import FinishedStep, SpotCheck
from influencekit._tape.step_collector import Reduction, StepCollector
from influencekit._tape.stream import StreamExamples
from influencekit._tape.trainable_state import TrainableState, copied
from influencekit._tape.unwrap import find_loader, model_behind
from influencekit._training.checks.non_finite import update_diverged
from influencekit._training.state import State
from influencekit._trajectory.writing import Kept
from influencekit.errors import InputError
from influencekit.interfaces import Recorder

__all__ = ["Recording"]


class Recording:
    """A run from the first batch until `close`. Callbacks call `boundary` and `push` instead of `batches`."""

    def __init__(
        self, store: str | Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, call: Call, *,
        collate_given: bool, recorder: Recorder, settings: HyperParameters, reduction: Reduction,
        accumulate: int | None, clip: Clip, separable: bool, ids: list[Hashable], schedulers: list[Any],
        resume: bool, check: float, tolerance: float, name: str, id_entry: str | None = None,
        scaler: Any = None, durable: bool = False, group: Any = None,
    ) -> None:  # fmt: skip
        called, model = model, model_behind(model)
        refuse_hooks(model)
        self._group, self._ranks = group, tape_ranks(group, called, call, resume, check, scaler)
        self.call, self._called = call, called
        if self._ranks is not None and not self._ranks.first:  # rank 0 writes, and checks
            store, check = None, 0.0
        self.writer = writer_of(self._ranks)(store, recorder, durable)
        self._model, self._optimizer, self._collate_given = model, optimizer, collate_given
        self._settings, self._clip, self._separable = settings, clip, separable
        self._ids, self._tolerance, self._name = ids, tolerance, name
        self._stream = call.data if isinstance(call.data, StreamExamples) else None
        self._own_names = self._stream is None and ids == list(range(len(ids)))  # positions
        self._steps = StepCollector(model, optimizer, call, reduction, accumulate)
        self._steps.dropped, self._steps.scaling = self._check_buffers, Scaling(scaler)
        hear(self._ranks, self._steps, settings, optimizer, lambda: self._state)
        self._steps.drop_entry = lambda: self._use(self.call.collate)
        self._spot = SpotCheck(model, call, check, tolerance, separable)
        self._loaders = LoopBatches(call.data, id_entry)
        self._reloads, device = Reloads(), next(model.parameters()).device
        self._position = LoopPosition(optimizer, schedulers, device, settings, self._reloads)
        if id_entry is not None and self._stream is None:  # no input of the model
            self._steps.index_entry = id_entry
            self._use(call.collate)
        self._epoch, self._noted_epoch, self._batches_done, self._snapshot = -1, 0, 0, dict[str, Any]()
        self._state: TrainableState | None = None  # until the first step shows what is trained
        self._parameters, self._used = list(model.parameters()), list[bool]()
        self._resumed: Kept | None = None  # until the loop is where the resumed run was
        self._unchecked: Resumed | None = None  # until its first boundary
        self._had_epochs: int | None = None  # in the resumed run, where the loop was not at its end
        self.finished, self.closed, self._was_finished, self._ends = False, False, False, ""
        self._buffers = copied(model, [n for n, _ in model.named_buffers()])
        if store is not None and Path(store).exists():
            if not resume:
                raise InputError(f"{store} exists already; choose another path, or continue it: resume=True")
            self._resume()
        self._removers = self._listen()

    def _listen(self) -> list[Callable[[], None]]:
        return listen(
            self._called, self._optimizer, self._steps, self._group, before_step=self._before_step,
            after_step=together(self._ranks, self._after_step),
            copied=lambda: self._reloads.note(self._state, self._steps.step),
            loading=lambda optimizer: self._reloads.loading(self._state, self._steps.step, optimizer),
        )  # fmt: skip

    def _check_buffers(self) -> None:
        return self._state.check_buffers(self._steps.step) if self._state else None

    def close(self, error: BaseException | None) -> None:
        """End the recording. `error`: what ended the loop, if anything did."""
        at_end(self._ranks, self._close, error, self._steps.step, self._state)

    def _close(self, error: BaseException | None) -> None:
        self.closed = True
        for remove in self._removers:
            remove()
        if (self._unchecked or self.writer.untouched) and (self._was_finished or error is not None):
            self.writer.opened.leave()
            if error is None and self._had_epochs is not None:
                refuse_nothing_new(self._had_epochs, self._epoch, self.writer.store)
            return
        note = partial(self._position.ended, self._epoch, self._batches_done)
        end_store(self.writer, error, self._last_state, note, self._spot, self._completed, self._steps.step)

    def _completed(self) -> None:
        self.finished, self._ends = True, self._state.digest_slots() if self._state else ""

    def go_on(self) -> None:
        """Continue after `close`: the loop's next epoch is the next of the run. Errors: something changed."""
        assert self._state is not None
        self._state.check_unchanged(self._steps.step, self._ends)
        self.writer.opened.reopen()
        self.finished = self.closed = False
        self._removers = self._listen()

    def _last_state(self) -> tuple[State | None, int | None]:
        """The last state, and the number of the one whose weights were loaded since.

        Errors: the loop ended within a step, or before where a resumed run was.
        """
        assert self._state is not None
        self._steps.check_done(ended=True)
        found = self._reloads.end(self._state, self._steps.step)
        self._state.check_constant(self._steps.step, thorough=True)
        if self._resumed is not None:
            refuse_early_end(self._resumed.snapshot, self._epoch)
        return found

    def batches(self, loader: Any) -> Iterator[tuple[list[Hashable], Any]]:
        """(ids, batch) of an epoch; see `Tape.batches`."""
        self._epoch += 1
        resumed, place = self._resumed, find_loader(loader)
        inner = loader if place is None else place.loader
        ended = resumed is not None and bool(resumed.snapshot.get("ended"))
        if resumed is not None:
            if self._epoch < resumed.snapshot["epoch"] + ended:
                return
            self._put_back(resumed)
            self._position.begin_again(resumed.snapshot, inner, self.writer.generators)
        self._position.begin(inner)
        self._steps.begin_epoch()
        if hasattr(inner, "collate_fn") and not self._collate_given:
            self._use(inner.collate_fn)
        source, done = self._loaders.batches(loader), 0
        if resumed is not None and not ended:
            done = resumed.snapshot["position"]
            for _ in range(done):
                next(source, None)
            self._put_back(resumed)
        self._resumed = None
        while True:
            if not self._steps.forwarded:
                self.boundary(self._epoch, done)
            self._steps.note_random()
            found = next(source, None)
            if found is None:
                return
            self._batches_done = done = done + 1
            self._steps.pass_over()
            self._steps.push(found)
            ids: list[Hashable] = [i if self._own_names else self._ids[i] for i in found.indices]
            self._steps.ids = ids
            yield ids, getattr(found, "given", found.batch)
            self._steps.check_done()

    def _use(self, collate: Any) -> None:
        """Collate in this way from now on, without an entry that numbers the examples."""
        key = self._steps.index_entry
        if self._stream is not None:
            self._stream.dropped = key
        self.call = replace(self.call, collate=collate if key is None else WithoutEntry(collate, key))
        self._steps.call = self.call
        self._spot.use(self.call)

    def _put_back(self, kept: Kept) -> None:
        assert self._state is not None
        self._state.load(kept.tensors, kept.number)
        self._position.return_to(kept.snapshot, self.writer.generators)

    @deferred()
    def boundary(self, epoch: int, position: int = 0) -> None:
        """A step is about to begin, at this position of this epoch: store the state if the recorder does."""
        self._steps.check_done()
        if self._steps.forwarded and self._steps.nothing_due():  # after a skipped update: the step goes on
            return
        if self._unchecked is not None:
            self._unchecked.check(self.call)
            self._unchecked = None
        step, state = self._steps.step, self._state
        if epoch != self._noted_epoch:  # where loops evaluate, and keep the best weights
            self._reloads.note(state, step)
        self._epoch = self._noted_epoch = epoch
        if state is None:
            self._snapshot = self._position.noted(epoch, position)  # stored with state 0, at its first step
            self._constant = ConstantTensors(self._model)
        else:
            state.check_buffers(step)
            if self.writer.keeps(step):
                state.check_constant(step, thorough=True)
                self.writer.state(state.state(step), self._position.noted(epoch, position))
        self._steps.watch_left = self._spot.decide(step)
        if self._steps.watch_left or state is None:
            self._buffers = copied(self._model, list(self._buffers))

    def push(self, indices: Sequence[int], rng: bytes | None, batch: Any) -> None:
        """The micro-batch of these positions is forwarded next."""
        self._steps.push(IndexedBatch([int(i) for i in indices], rng or capture(), batch))

    def _before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(a is not None for a in (*args[1:], kwargs.get("closure"))):  # args[0] is the optimizer
            raise InputError("optimizer.step(closure) cannot be recorded; call backward, then step()")
        step = self._steps.step
        self._steps.assume_forwarded()
        if bool(getattr(self._optimizer, "found_inf", None)):  # a fused optimizer, which does nothing then
            self._steps.skip()
            return
        self._steps.check_due()
        self._steps.note_random()
        used = [p.grad is not None for p in self._parameters]
        state = self._state
        if state is None or self._spot.wanted or used != self._used:
            params = trained_parameters(self._model, self._optimizer, self._clip.norm)
            state = self._state or self._begin(params)
            state.check_trained(params, step)
            self._used = used
        if (changed := self._settings.changed(step, self._steps.scaling.scale)) is not None:
            self.writer.settings(changed)
        self._reloads.check(state, step)
        state.check_parameters(step)
        state.check_constant(step, thorough=self._spot.wanted)
        self._lrs = learning_rates(self._optimizer)
        if self._spot.wanted:
            self._before = state.state(step)._replace(buffers=self._buffers)

    def _after_step(self) -> None:
        if self._steps.nothing_due():
            return
        assert self._state is not None
        state, steps, step = self._state, self._steps, self._steps.step
        state.mark()
        early = steps.micros(True) if steps.forward_draws is None and self._spot.wanted else []
        passed_over, divisor, sent = steps.passed_over_now, steps.divisor, steps.forwarded
        micros, coefficients, losses = steps.finish_step()
        if not state.finite():
            raise update_diverged(step, losses, state.params.values(), [x.pending.batch for x in sent])
        if self._spot.wanted:
            rule = state.rule
            if self._settings.now != self._settings.first:
                rule = rule._replace(optimizer=rule.optimizer.with_settings(self._settings.now))
            done = FinishedStep(
                self._before, rule, micros, coefficients, self._lrs, steps.autocast, steps.training,
                losses, list(state.params.values()), steps.left, divisor, passed_over,
                steps.scaling.scale,
            )  # fmt: skip
            del self._before
            steps.replaying = True
            found = self._spot.check(done, state.state(step + 1), early if early != micros else ())
            steps.replaying = False
            if steps.forward_draws is None:
                steps.forward_draws = found is not done
            micros, losses = found.micros, self._spot.with_penalties(losses)
        if self._spot.again:
            self._spot.repeat(step)
        self.writer.step(micros, coefficients, losses, self._lrs, max(self._epoch, 0), self._stream)

    def _begin(self, params: dict[str, nn.Parameter]) -> TrainableState:
        """Begin the store at the first step, whose gradients show what is trained."""
        changing = changed_buffers(self._buffers, self._model)
        refuse_buffers(self._ranks, changing)
        self._buffers = {n: self._buffers[n] for n in changing}
        self._steps.keep_skipped = bool(changing)
        self._settings.begin()
        description = describe_optimizer(self._optimizer, params, self._clip)
        state = self._trainable(params, changing, description, 0)
        slots, updates = read_slots(self._optimizer, state.rule, params)
        state.rule = state.rule._replace(updates=updates)
        state.check_constant(0, thorough=True)
        first = State(state.rule.layout.join(params), slots, 0, self._buffers)
        if self.writer.writer is None:
            about = run_attributes(
                self._model, self.call, state.rule, self._steps, changing, separable=self._separable,
                optimizer=description, tolerance=self._tolerance, positions=self._own_names,
            )  # fmt: skip
            names = self._ids if self._stream is None else self._stream
            about = of_all(self._ranks, about, self.call.data)
            self.writer.begin(state.rule, first, names, {"workload": self._name, **about})
        self.writer.state(first, self._snapshot)
        return state

    def _trainable(
        self, params: dict[str, nn.Parameter], changing: list[str], description: dict[str, Any], updates: int
    ) -> TrainableState:
        rule = UpdateRule.of(params, description, updates)
        self._state = TrainableState(self._model, self._optimizer, params, changing, rule, self._constant)
        return self._state

    def _resume(self) -> None:
        """Continue the run in the store."""
        attrs, writer = self.writer.reopen(), self.writer.opened
        kept, fingerprint = writer.resumed, attrs["fingerprint"]
        changing = [n for n, _ in attrs["buffers"]]
        self._unchecked = Resumed(writer, self._model, self._optimizer, self.call, self._ids)
        if kept is None:  # cut off before a state was there: begin
            return
        self._steps.check_modes = self._unchecked.check_modes
        own, about = dict(self._model.named_parameters()), attrs["tape"]
        if (key := about.get("index_entry")) is not None:
            self._steps.index_entry = key
            self._use(self.call.collate)
        if self._stream is not None:
            self._stream.load(writer.group, writer.placed)
            self._ids = self._stream.ids
        params = {n: own[n] for n, _ in fingerprint["parameters"]}
        self._buffers = copied(self._model, changing)
        self._constant = ConstantTensors(self._model)
        state = self._trainable(params, changing, about["optimizer"], about["updates"])
        self._steps.keep_skipped = bool(changing)
        self._settings.begin(about["optimizer"]["groups"])
        self._steps.step, self._was_finished = kept.number, attrs["status"] == "complete"
        self._reloads.remember(kept.snapshot.get("known", {}))
        self.writer.remember_generators()
        if kept.snapshot.get("ended") and state.equals(kept.tensors):  # the loop is there, and goes on
            self._epoch = self._noted_epoch = kept.snapshot["epoch"]
            state.mark()
        else:
            self._resumed, self._had_epochs = kept, kept.snapshot["epoch"] + 1
            state.load(kept.tensors, kept.number)
            say_resumed(kept.snapshot, kept.number, self.writer.store)
