"""One recording of a loop: its batches, forward passes and optimizer steps are noted, checked and stored."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from influencekit._tape.change_detector import ConstantTensors
from influencekit._tape.checks.arguments import refuse_hooks, refuse_parallel
from influencekit._tape.fingerprint import check_fingerprint, run_attributes
from influencekit._tape.hooks import Hook
from influencekit._tape.hyperparameters import HyperParameters
from influencekit._tape.loader import IndexedBatch, IndexedLoaders
from influencekit._tape.loop_position import LoopPosition
from influencekit._tape.optimizer import (
    Clip,
    UpdateRule,
    describe_optimizer,
    learning_rates,
    read_slots,
    rebuild_optimizer,
    trained_parameters,
)
from influencekit._tape.reloads import Reloads
from influencekit._tape.replica import Call, changed_buffers
from influencekit._tape.rng import capture
from influencekit._tape.spot_check import FinishedStep, SpotCheck
from influencekit._tape.step_collector import Reduction, StepCollector
from influencekit._tape.trainable_state import TrainableState, copied
from influencekit._tape.writer import TapeWriter
from influencekit._training.checks.non_finite import LOWER_RATE, diverged
from influencekit._training.layout import Layout
from influencekit._training.state import State
from influencekit._trajectory.writing import Kept
from influencekit.errors import DivergedError, InputError
from influencekit.interfaces import Recorder

__all__ = ["Recording"]


class Recording:
    """A run from the first batch until `close`. Callbacks call `boundary` and `push` instead of `batches`."""

    def __init__(
        self, store: str | Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, call: Call, *,
        collate_given: bool, recorder: Recorder, settings: HyperParameters, reduction: Reduction,
        accumulate: int, clip: Clip, separable: bool, ids: list[Hashable], schedulers: list[Any],
        resume: bool, check: float, tolerance: float, name: str, scaler: Any = None,
    ) -> None:  # fmt: skip
        refuse_hooks(model)
        refuse_parallel()
        self.call, self.writer = call, TapeWriter(store, recorder)
        self._model, self._optimizer, self._collate_given = model, optimizer, collate_given
        self._settings, self._clip, self._separable = settings, clip, separable
        self._ids, self._tolerance, self._name = ids, tolerance, name
        self._steps = StepCollector(model, call, reduction, accumulate, scaler)
        self._spot = SpotCheck(model, call, check, tolerance, separable)
        self._loaders = IndexedLoaders(call.data)
        device = next(model.parameters()).device
        self._position = LoopPosition(optimizer, schedulers, device, settings)
        self._reloads = Reloads()
        self._epoch, self._batches_done, self._snapshot = -1, 0, dict[str, Any]()
        self._noted_epoch = 0
        self._state: TrainableState | None = None  # until the first step shows what is trained
        self._parameters, self._used = list(model.parameters()), list[bool]()
        self._resumed: Kept | None = None  # until the loop is where the resumed run was
        self._buffers = copied(model, [n for n, _ in model.named_buffers()])
        if store is not None and Path(store).exists():
            if not resume:
                raise InputError(
                    f"{store} exists already; choose another path, or continue it with resume=True"
                )
            self._resume()
        self._hooks = self._listen()

    def _listen(self) -> list[RemovableHandle]:
        model, optimizer, steps, reloads = self._model, self._optimizer, self._steps, self._reloads

        def note(*event: Any) -> None:
            reloads.note(self._state, steps.step)

        return [
            model.register_forward_pre_hook(Hook(lambda *event: steps.before_forward(), copied=note)),
            model.register_forward_hook(Hook(lambda *event: steps.after_forward(event[-1]))),
            optimizer.register_step_pre_hook(Hook(lambda *event: self._before_step(*event[1:]))),
            optimizer.register_step_post_hook(Hook(lambda *event: self._after_step())),
            model.register_state_dict_pre_hook(Hook(note)),
            model.register_load_state_dict_pre_hook(
                Hook(lambda *event: reloads.loading(self._state, steps.step))
            ),
            optimizer.register_load_state_dict_pre_hook(
                Hook(lambda *event: reloads.loading(self._state, steps.step, optimizer=True))
            ),
        ]

    def close(self, error: BaseException | None) -> None:
        """End the recording. `error`: what ended the loop, if anything did."""
        for hook in self._hooks:
            hook.remove()
        writer = self.writer.writer
        if writer is None:
            if error is None:
                raise InputError(
                    "the tape saw no optimizer step; iterate over tape.batches(loader) inside it"
                )
        elif error is None:
            try:
                end, reloaded = self._last_state()
                self.writer.state(end, self._noted(self._epoch, self._batches_done))
                self._spot.last(end.step)
            except BaseException:
                writer.close("recording")
                raise
            known: dict[str, Any] = {} if reloaded in (None, -1) else {"reloaded": reloaded}
            writer.close(replay=self._spot.summary(), **known)
            if reloaded == -1:
                raise InputError(
                    "after the last step load_state_dict put weights into the model that are no state of the "
                    "run known to the tape (those at ends of epochs, and those that state_dict() or a copy "
                    "was taken of); the run is recorded as far as its last step: load others after the tape"
                )
        elif isinstance(error, DivergedError):
            writer.close("stopped", reason=str(error))
        else:  # what was recorded stays, and may be resumed
            writer.close("recording")

    def _last_state(self) -> tuple[State, int | None]:
        """The last state, and the number of the one whose weights were loaded since.

        Errors: the loop ended within a step, or before where a resumed run was.
        """
        assert self._state is not None
        step = self._steps.step
        self._steps.check_done()
        if self._steps.forwarded and self._steps.nothing_due():
            raise InputError(
                f"after step {step - 1} a GradScaler skipped the last update, and the forward pass before it "
                "changed buffers; end the loop with a step that is made"
            )
        found = self._reloads.end(self._state, step)
        self._state.check_constant(step, thorough=True)
        if self._resumed is not None:
            raise InputError(
                f"the loop ended before epoch {self._resumed.snapshot['epoch']}, where the run that it "
                "resumes was cut off; pass every epoch's loader to tape.batches again"
            )
        return found

    def _noted(self, epoch: int, position: int) -> dict[str, Any]:
        """What a resumed loop needs, as JSON but for generators."""
        return {**self._position.noted(epoch, position), "known": self._reloads.known}

    def batches(self, loader: Any) -> Iterator[tuple[list[Hashable], Any]]:
        """(ids, batch) of an epoch; see `Tape.batches`."""
        self._epoch += 1
        resumed = self._resumed
        if resumed is not None:
            if self._epoch < resumed.snapshot["epoch"]:
                return
            self._position.begin_again(resumed.snapshot, loader, self.writer.generators)
        self._position.begin(loader)
        if hasattr(loader, "collate_fn") and not self._collate_given:
            self.call = self._steps.call = replace(self.call, collate=loader.collate_fn)
            self._spot.use(self.call)
        source, done = self._loaders.batches(loader), 0
        if resumed is not None:
            assert self._state is not None
            done = resumed.snapshot["position"]
            for _ in range(done):
                next(source, None)
            self._state.load(resumed.tensors, resumed.number)
            self._position.return_to(resumed.snapshot, self.writer.generators)
            self._resumed = None
        while True:
            if not self._steps.forwarded:
                self.boundary(self._epoch, done)
            self._steps.note_random()
            found = next(source, None)
            if found is None:
                return
            done += 1
            self._batches_done = done
            self._steps.queue.clear()  # a batch that the loop skipped
            self._steps.push(found)
            yield [self._ids[i] for i in found.indices], found.batch
            self._steps.check_done()

    def boundary(self, epoch: int, position: int = 0) -> None:
        """A step is about to begin, at this position of this epoch: store the state if the recorder does."""
        step, state = self._steps.step, self._state
        if epoch != self._noted_epoch:  # where loops evaluate, and keep the best weights
            self._reloads.note(state, step)
        self._epoch = self._noted_epoch = epoch
        self._steps.check_done()
        if self._steps.forwarded:  # of a step that was skipped: the present one goes on
            return
        if state is None:
            self._snapshot = self._noted(epoch, position)  # stored with state 0, at its first step
            self._constant = ConstantTensors(self._model)
        else:
            state.check_buffers(step)
            if self.writer.keeps(step):
                state.check_constant(step, thorough=True)
                self.writer.state(state.state(step), self._noted(epoch, position))
        if self._spot.decide(step) or state is None:
            self._buffers = copied(self._model, list(self._buffers))

    def push(self, indices: Sequence[int], rng: bytes | None, batch: Any) -> None:
        """The micro-batch of these positions is forwarded next."""
        self._steps.push(IndexedBatch([int(i) for i in indices], rng or capture(), batch))

    def _before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(a is not None for a in (*args[1:], kwargs.get("closure"))):  # args[0] is the optimizer
            raise InputError("optimizer.step(closure) cannot be recorded; call backward, then step()")
        step, found_inf = self._steps.step, getattr(self._optimizer, "found_inf", None)
        if found_inf is not None and bool(found_inf):  # a fused optimizer, which does nothing then
            self._steps.skip()
            return
        if not self._steps.forwarded:
            raise InputError(
                f"optimizer.step() was called without a new batch, after step {step - 1} was done; every "
                "step needs a forward pass on a batch of tape.batches"
            )
        self._steps.note_random()
        used = [p.grad is not None for p in self._parameters]
        state = self._state
        if state is None or self._spot.wanted or used != self._used:
            params = trained_parameters(self._model, self._optimizer, self._clip.norm)
            state = self._state or self._begin(params)
            if list(params) != list(state.params):
                odd = sorted(set(params) ^ set(state.params))[0]
                raise InputError(
                    f"step {step}: parameter {odd} has a gradient in some steps and none in others; freeze "
                    "it for the whole run, or use it in every step"
                )
            self._used = used
        if (changed := self._settings.changed(step, self._steps.scale)) is not None:
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
        micros, coefficients, losses = steps.finish_step()
        if not state.finite():
            raise diverged("parameters", step, f"what came before is kept; {LOWER_RATE}")
        if self._spot.wanted:
            rule = state.rule
            if self._settings.now != self._settings.first:
                rule = rule._replace(optimizer=rule.optimizer.with_settings(self._settings.now))
            done = FinishedStep(
                self._before,
                rule,
                micros,
                coefficients,
                self._lrs,
                steps.autocast,
                steps.training,
                steps.scale,
            )
            del self._before
            found = self._spot.check(done, state.state(step + 1), early if early != micros else ())
            if steps.forward_draws is None:
                steps.forward_draws = found is not done
            micros = found.micros
        if self._spot.again:
            self._spot.repeat(step)
        self.writer.step(micros, coefficients, losses, self._lrs, max(self._epoch, 0))

    def _begin(self, params: dict[str, nn.Parameter]) -> TrainableState:
        """Begin the store at the first step, whose gradients show what is trained."""
        changing = changed_buffers(self._buffers, self._model)
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
                optimizer=description, tolerance=self._tolerance,
            )  # fmt: skip
            self.writer.begin(state.rule, first, self._ids, {"workload": self._name, **about})
        self.writer.state(first, self._snapshot)
        return state

    def _trainable(
        self, params: dict[str, nn.Parameter], changing: list[str], description: dict[str, Any], updates: int
    ) -> TrainableState:
        layout = Layout(tuple(params), tuple(tuple(p.shape) for p in params.values()))
        rule = UpdateRule(layout, rebuild_optimizer(description), updates)
        self._state = TrainableState(self._model, self._optimizer, params, changing, rule, self._constant)
        return self._state

    def _resume(self) -> None:
        """Continue the run in the store."""
        attrs, writer = self.writer.reopen(), self.writer.opened
        kept, fingerprint = writer.resumed, attrs["fingerprint"]
        changing = [n for n, _ in attrs["buffers"]]
        try:
            check_fingerprint(fingerprint, self._model, self.call.data, changing, str(self.writer.store))
        except BaseException:
            writer.leave()
            raise
        if kept is None:  # cut off before a state was there: begin
            return
        own, about = dict(self._model.named_parameters()), attrs["tape"]
        params = {n: own[n] for n, _ in fingerprint["parameters"]}
        self._buffers = copied(self._model, changing)
        self._constant = ConstantTensors(self._model)
        state = self._trainable(params, changing, about["optimizer"], about["updates"])
        self._settings.begin(about["optimizer"]["groups"])
        self._steps.keep_skipped = bool(changing)
        self._resumed, self._steps.step = kept, kept.number
        self._reloads.remember(kept.snapshot.get("known", {}))
        self.writer.remember_generators()
        state.load(kept.tensors, kept.number)
