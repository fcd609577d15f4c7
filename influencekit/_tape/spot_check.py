"""Replay of steps while the loop runs: a replay must give what the loop did, and do so until the end."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from functools import partial
from math import log10
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from influencekit._tape.causes import replay_fails
from influencekit._tape.checks.collation import refuse_mixed_rows
from influencekit._tape.checks.model import (
    refuse_inseparable,
    refuse_nondifferentiable,
    refuse_other_parameters,
    refuse_side_doors,
)
from influencekit._tape.hypotheses import Evidence, explained
from influencekit._tape.optimizer import UpdateRule
from influencekit._tape.replay_difference import compare_step, sample_of
from influencekit._tape.replica import Call, Micro, Replica, set_modes
from influencekit._tape.rng import capture, preserved_random
from influencekit._training.state import State
from influencekit.errors import InfluenceKitError, InputError

__all__ = ["FinishedStep", "SpotCheck"]

_ALLOWANCE = 0.1  # seconds that checks may take in any case: short runs are checked throughout


class FinishedStep(NamedTuple):
    """A step that the loop has done, with the state before it: what a replay needs."""

    before: State
    rule: UpdateRule
    micros: list[Micro]
    coefficients: np.ndarray
    lrs: list[float]
    autocast: torch.dtype | None
    training: dict[str, bool]
    losses: np.ndarray  # [slot], as the loop's outputs gave them; NaN: not known
    trained: list[nn.Parameter]  # which still have the gradient that the optimizer was given
    left: Tensor | None  # of the gradients before the step, `some_entries`
    accumulate: int
    passed_over: int  # batches before the step that the loop did not forward
    scale: float = 1.0  # of a GradScaler


class SpotCheck:
    """Replays the first step, and others in a `fraction` of the loop's time (1: all steps; 0: none).

    A check is due whenever the number of steps has grown by an eighth. The time allowed grows with the
    logarithm of that number. Long runs check random steps in between. A replay of the step just done finds
    what the loop does besides the step. It cannot find what has changed for loop and replay alike (a number
    in the loss, a second network, the data). So the first step is replayed again from time to time, and at
    the end, and must give what it gave.
    """

    def __init__(
        self, model: nn.Module, call: Call, fraction: float, tolerance: float, separable: bool
    ) -> None:
        self._fraction, self._tolerance, self._separable = fraction, tolerance, separable
        self._model, self._replica = model, Replica(model, call) if fraction else None
        self._random = random.Random(0)
        self._began, self._spent, self._count, self._each = time.perf_counter(), 0.0, 0, 0.0
        self._due, self._due_again, self._turn = 0, 1, False
        self._first: tuple[FinishedStep, Tensor] | None = None  # and a sample of what it gave
        self._rows_checked = False
        self.wanted, self.again, self.done, self.gap = False, False, 0, 0.0
        self._losses: list[Tensor] = []  # [slot] of each micro-batch, as they were replayed last

    def use(self, call: Call) -> None:
        """Fetch and evaluate in this way from now on."""
        if self._replica is not None:
            self._replica.call = call

    def decide(self, step: int) -> bool:
        """Whether the step that is about to begin will be replayed."""
        if self._replica is None or self.done == 0:
            self.wanted, self.again = self._replica is not None, False
            return self.wanted
        elapsed = self._fraction * (time.perf_counter() - self._began)
        early = _ALLOWANCE * min(1.0, (1 + log10(1 + step) / 3) / 2)  # all of it from step 1,000 on
        left = int((max(elapsed, early) - self._spent) / max(self._each, 1e-9)) - 1  # one is for the end
        chance = self._each <= elapsed - self._spent and self._random.random() < 0.5
        pending = self._first is not None and step >= self._due_again
        self.again = pending and (left > 1 or (left > 0 and self._turn))
        self.wanted = self._fraction == 1 or ((step >= self._due or chance) and left > int(self.again))
        return self.wanted

    def _charge(self, began: float) -> None:
        self._spent += time.perf_counter() - began
        self._count += 1
        self._each = self._spent / self._count

    def check(self, done: FinishedStep, reached: State, early: Sequence[Micro] = ()) -> FinishedStep:
        """Replay the step and compare. Errors: another result than the loop's; losses that are not separable.

        `early`: the same micro-batches, with the generators before `forward=` began. Returns the step with
        the micro-batches whose replay is right.
        """
        assert self._replica is not None
        step = done.before.step
        set_modes(self._replica.model, done.training)
        if self.done:
            began = time.perf_counter()
            self.gap = max(self.gap, self._compared(done, reached)[0])
            self._charge(began)
            if not self._rows_checked:
                with preserved_random(reached.theta.device):
                    self._check_rows(done)
        else:
            with preserved_random(reached.theta.device):
                try:
                    done = self._check_first(done, reached, early)
                except (InfluenceKitError, torch.OutOfMemoryError):
                    raise
                except Exception as error:  # the user's model or loss, on what the loop did not give it
                    raise InputError(replay_fails(step, error)) from error
        self.done += 1
        self._due, self._turn = step + max(1, step // 8), True
        return done

    def _check_first(self, done: FinishedStep, reached: State, early: Sequence[Micro]) -> FinishedStep:
        assert self._replica is not None
        replica, device, layout, state = self._replica, reached.theta.device, done.rule.layout, done.before
        micro = done.micros[0]
        cast = torch.autocast(device.type, dtype=done.autocast, enabled=done.autocast is not None)
        with replica.at(layout, state.theta, state.buffers):
            batch = replica.call.batch(micro, device)
            with cast:
                refuse_other_parameters(replica, self._model, batch, micro.forward_rng, len(micro.indices))
            draws = bool(early) and self._draws(replica.call.batch(micro, device))
        began = time.perf_counter()
        found = self._with_early(done, reached, early) if draws else None
        if found is None:
            try:
                found = done, *self._compared(done, reached)
            except InputError as error:
                drawn = (
                    "; between the delivery of the batch and the model's forward random numbers were drawn: "
                    "let nothing but forward= draw there"
                )
                raise InputError(f"{error}{drawn if early else ''}") from None
        done, self.gap, gave = found
        self._each = (time.perf_counter() - began) / 2  # which warmed up, too
        micro = done.micros[0]
        rng = micro.forward_rng
        self._check_rows(done)
        with replica.at(layout, state.theta, state.buffers):
            batch = replica.call.batch(micro, device)
            with torch.autocast(device.type, enabled=False):
                refuse_side_doors(replica, layout, batch, rng)
                refuse_nondifferentiable(replica, layout, state.theta, state.buffers, batch, rng)
        self._first = done._replace(before=state._replace(slots={})), gave
        return done

    def _with_early(
        self, done: FinishedStep, reached: State, early: Sequence[Micro]
    ) -> tuple[FinishedStep, float, Tensor] | None:
        """The replay with the generators as they were at delivery, if it gives what the loop did."""
        done = done._replace(micros=list(early))
        try:
            return done, *self._compared(done, reached)
        except InputError:  # then something else has drawn in between
            return None

    def _draws(self, batch: Any) -> bool:
        """Whether outputs draw random numbers."""
        assert self._replica is not None
        before = capture(next(self._replica.model.parameters()).device)
        with torch.no_grad():
            self._replica.call.outputs(self._replica.model, batch)
        return capture(next(self._replica.model.parameters()).device) != before

    def _check_rows(self, done: FinishedStep) -> None:
        """Refuse losses of several examples, if it is not each its own. Of one example, even several times in
        a batch, this cannot be seen: then at a later step."""
        assert self._replica is not None
        replica, state, device = self._replica, done.before, done.before.theta.device
        micro = next((m for m in done.micros if len(set(m.indices)) > 1), None)
        if micro is None:
            return
        self._rows_checked = True
        with replica.at(done.rule.layout, state.theta, state.buffers):
            if self._separable:
                refuse_inseparable(replica, replica.call.batch(micro, device), micro.forward_rng)
            refuse_mixed_rows(replica, micro, device, self._separable)

    def _compared(self, done: FinishedStep, reached: State) -> tuple[float, Tensor]:
        """How far the replayed step is off, and a sample of what it gave."""
        rule, before = done.rule, done.before
        g, losses, buffers = self._replayed(done)
        self._losses = losses
        theta, slots = rule.optimizer.step(
            rule.layout, before.theta, before.slots, g, rule.updates + before.step, list(done.lrs)
        )
        try:
            replayed = State(theta, slots, reached.step, buffers)
            why = partial(self._explained, done, g)
            gap = compare_step(rule, before, replayed, reached, self._tolerance, why)
        except InputError as error:
            inside = "; under autocast, a replay computes the loss there, too" if done.autocast else ""
            raise InputError(f"{error}{inside}") from None
        return gap, sample_of(rule, g, losses)

    def _explained(self, done: FinishedStep, g: Tensor) -> str | None:
        """Why the step is another, if one of the simple causes fits; the gradients are still there."""
        if any(p.grad is None for p in done.trained):
            return None
        sizes = [len(m.indices) for m in done.micros]
        a = torch.cat([p.grad.detach().reshape(-1) for p in done.trained if p.grad is not None]).to(g)
        starts = [m.slots.start for m in done.micros]
        places = [k for s, n in zip(starts, sizes, strict=True) for k in range(s, s + n)]
        coefficients = torch.from_numpy(done.coefficients).to(g)

        def gradient(only: Tensor) -> Tensor:
            return self._replayed(done._replace(coefficients=only.double().cpu().numpy()))[0]

        try:
            return explained(
                Evidence(
                    done.rule, done.before.theta, a, g, coefficients, [m.slots for m in done.micros], sizes,
                    gradient, torch.from_numpy(done.losses[places]),
                    torch.cat(self._losses).double().cpu()[places], done.accumulate, done.passed_over,
                    done.left,
                )
            )  # fmt: skip
        except Exception:  # a hint is not worth an error of its own: too little memory, the user's own code
            return None

    def with_penalties(self, losses: np.ndarray) -> np.ndarray:
        """The losses [slot] of the step just replayed, which the loop shows, and the penalties, which it does
        not."""
        if self._replica is None or self._replica.call.penalty is None:
            return losses
        replayed = torch.cat(self._losses).double().cpu().numpy()
        ends = np.cumsum([len(x) for x in self._losses]) - 1
        losses = losses.copy()
        losses[ends] = replayed[ends]
        return losses

    def _replayed(self, done: FinishedStep) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        assert self._replica is not None
        theta, buffers = done.before.theta, done.before.buffers
        weights, call = torch.from_numpy(done.coefficients).to(theta), self._replica.call
        batches = [(call.batch(m, theta.device), weights[m.slots], m.forward_rng) for m in done.micros]
        return self._replica.gradient(done.rule.layout, theta, buffers, batches, done.autocast, done.scale)

    def repeat(self, step: int) -> None:
        """Do the first step again after step `step`. Errors: it does not give what it gave at first."""
        began = time.perf_counter()
        if self._first is None or self._replica is None:
            return
        first, before = self._first
        set_modes(self._replica.model, first.training)
        g, losses, _ = self._replayed(first)
        gave = sample_of(first.rule, g, losses)
        self.again, self._turn, self._due_again = False, False, 2 * step
        self._charge(began)
        if torch.equal(gave, before):
            return
        count = sum(len(x) for x in losses)
        for part, what in ((slice(count), "its losses"), (slice(count, None), "its gradient")):
            a, b = gave[part].double(), before[part].double()
            gap = float((a - b).norm() / b.norm().clamp(min=1e-30))
            self.gap = max(self.gap, gap)
            if not gap <= max(self._tolerance, 1e-6):
                raise InputError(
                    f"step {first.before.step}, replayed again after step {step}, is no longer what it was: "
                    f"{what} differ by {gap:.1e} of their size; something outside the model has changed in "
                    "between (a schedule in the loss, a second network, the data), and a replay would take "
                    "its present value for every step; keep it fixed during the run, or make it a part of "
                    "the model"
                )

    def last(self, steps: int) -> None:
        """The loop is over: once more, if there is time for it and anything was done since."""
        time_left = self._fraction * (time.perf_counter() - self._began) - self._spent
        if steps > 1 and self._each <= max(_ALLOWANCE / 2, time_left):
            try:
                self.repeat(steps - 1)
            except InfluenceKitError:
                raise
            except Exception:  # the loop's data may be gone by now
                return

    def summary(self) -> str:
        """What the checks have shown."""
        if not self.done:
            return "not checked"
        how = "bit for bit" if self.gap == 0 else f"to {self.gap:.1e} of the update"
        return f"{self.done} steps replayed, equal {how}"
