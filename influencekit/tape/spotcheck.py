"""Replay of steps while the loop runs, to see that a replay is what the loop did, and that it stays so."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from math import log10
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from influencekit.errors import InfluenceKitError, InputError
from influencekit.tape.questions import (
    refuse_foreign,
    refuse_mixing,
    refuse_side_doors,
    refuse_together,
    refuse_underivable,
)
from influencekit.tape.replica import Call, Micro, Replica, set_modes
from influencekit.tape.rng import preserved_random
from influencekit.training.layout import Layout
from influencekit.training.optimizer import Optimizer, Slots
from influencekit.trajectory.difference import differences

__all__ = ["Done", "Moment", "Rule", "SpotCheck"]

_ALLOWANCE = 0.1  # seconds that checks may take in any case: short runs are checked throughout
_ENTRIES = 512  # of the gradient of a parameter, which are remembered of the first step


class Moment(NamedTuple):
    """A state: theta [param], the optimizer's slots, the buffers that training changes."""

    theta: Tensor
    slots: Slots
    buffers: dict[str, Tensor]


class Rule(NamedTuple):
    """How gradients become the next state."""

    layout: Layout
    optimizer: Optimizer
    updates: int


class Done(NamedTuple):
    """A step that the loop has done: its number, its micro-batches, and the circumstances."""

    step: int
    micros: list[Micro]
    coefficients: np.ndarray
    lrs: list[float]
    autocast: torch.dtype | None
    training: dict[str, bool]


class _First(NamedTuple):
    """The first step, so that it can be done again later: where it began, and what it gave then."""

    done: Done
    rule: Rule
    before: Moment
    gave: Tensor  # some of its gradient, and its losses


class SpotCheck:
    """Replays the first step, and others as time allows: `fraction` of the loop's (1 = all; 0: none at all).

    The checks are spread over the whole run: one is due whenever the number of steps has grown by an eighth,
    and the time allowed grows with its logarithm; in long runs random steps come in between. A replay of the
    step just done finds what the loop does besides the step. It cannot find what has changed for loop and
    replay alike (a number in the loss, a second network, the data), so now and then, and at the end, the
    first step is done again and must give what it gave.
    """

    def __init__(
        self, model: nn.Module, call: Call, fraction: float, tolerance: float, separable: bool
    ) -> None:
        self._fraction, self._tolerance, self._separable = fraction, tolerance, separable
        self._model, self._replica = model, Replica(model, call) if fraction else None
        self._random = random.Random(0)
        self._began, self._spent, self._count, self._each = time.perf_counter(), 0.0, 0, 0.0
        self._due, self._due_again, self._turn = 0, 1, False
        self._before: Moment | None = None
        self._first: _First | None = None
        self.wanted, self.again, self.done, self.gap = False, False, 0, 0.0

    def use(self, call: Call) -> None:
        """Fetch and evaluate in this way from now on."""
        if self._replica is not None:
            self._replica.call = call

    # when -------------------------------------------------------------------------------------------

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

    def _charge(self, began: float, step: int) -> None:
        self._spent += time.perf_counter() - began
        self._count += 1
        self._each = self._spent / self._count

    # a step ---------------------------------------------------------------------------------------

    def before(self, moment: Moment) -> None:
        """The state before the step."""
        self._before = moment

    def after(self, done: Done, rule: Rule, reached: Moment, early: Sequence[Micro] = ()) -> Done:
        """Do the step again and compare. Errors: it is not what the loop did; losses not separable.

        `early`: the same micro-batches with the generators as they were before `forward=` began; the result
        is the step with those that it replays from.
        """
        assert self._replica is not None and self._before is not None
        state, self._before = self._before, None
        set_modes(self._replica.model, done.training)
        if self.done:
            began = time.perf_counter()
            self.gap = max(self.gap, self._compared(done, rule, state, reached)[0])
            self._charge(began, done.step)
        else:
            with preserved_random(state.theta.device):
                done = self._at_first(done, rule, state, reached, list(early))
        self.done += 1
        self._due, self._turn = done.step + max(1, done.step // 8), True
        return done

    def _at_first(self, done: Done, rule: Rule, state: Moment, reached: Moment, early: list[Micro]) -> Done:
        assert self._replica is not None
        replica, device = self._replica, state.theta.device
        micro = done.micros[0]
        cast = torch.autocast(device.type, dtype=done.autocast, enabled=done.autocast is not None)
        with replica.at(rule.layout, state.theta, state.buffers):
            batch = replica.call.batch(micro, device)
            with cast:
                refuse_foreign(replica, self._model, batch, micro.forward_rng, len(micro.indices))
        began = time.perf_counter()
        try:
            self.gap, gave = self._compared(done, rule, state, reached)
        except InputError as error:
            if not early:
                raise
            done = done._replace(micros=early)
            try:
                self.gap, gave = self._compared(done, rule, state, reached)
            except InputError:
                raise InputError(
                    f"{error}; between the delivery of the batch and the model's forward random numbers were "
                    "drawn: let nothing but forward= draw there"
                ) from None
        self._each = (time.perf_counter() - began) / 2  # which warmed up, too
        micro = done.micros[0]
        with replica.at(rule.layout, state.theta, state.buffers):
            if self._separable:
                refuse_together(replica, replica.call.batch(micro, device), micro.forward_rng)
            refuse_mixing(replica, micro, device, self._separable)
            batch = replica.call.batch(micro, device)
            with torch.autocast(device.type, enabled=False):
                refuse_side_doors(replica, rule.layout, batch, micro.forward_rng, len(micro.indices))
                refuse_underivable(replica, rule.layout, state.theta, state.buffers, batch, micro.forward_rng)
        self._first = _First(done, rule, state._replace(slots={}), gave)
        return done

    def _compared(self, done: Done, rule: Rule, state: Moment, reached: Moment) -> tuple[float, Tensor]:
        """How far the step, done again, is off; and what it gave (`_First`)."""
        g, losses, buffers = self._again(done, rule, state)
        theta, slots = rule.optimizer.step(
            rule.layout, state.theta, state.slots, g, rule.updates + done.step, list(done.lrs)
        )
        replayed = Moment(theta, slots, buffers)
        try:
            gap = _checked(rule, done.step, state, replayed, reached, self._tolerance)
        except InputError as error:
            inside = "; under autocast, a replay computes the loss there, too" if done.autocast else ""
            raise InputError(f"{error}{inside}") from None
        return gap, _gave(rule, g, losses)

    def _again(self, done: Done, rule: Rule, state: Moment) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        assert self._replica is not None
        weights, device = torch.from_numpy(done.coefficients).to(state.theta), state.theta.device
        batches = [
            (self._replica.call.batch(m, device), weights[m.slots], m.forward_rng) for m in done.micros
        ]
        return self._replica.gradient(rule.layout, state.theta, state.buffers, batches, done.autocast)

    # the first step, once more ----------------------------------------------------------------------

    def repeat(self, step: int) -> None:
        """Do the first step again after step `step`. Errors: it does not give what it gave at first."""
        first, began = self._first, time.perf_counter()
        if first is None or self._replica is None:
            return
        set_modes(self._replica.model, first.done.training)
        g, losses, _ = self._again(first.done, first.rule, first.before)
        gave = _gave(first.rule, g, losses)
        self.again, self._turn, self._due_again = False, False, 2 * step
        self._charge(began, step)
        if torch.equal(gave, first.gave):
            return
        count = sum(len(x) for x in losses)
        for part, what in ((slice(count), "its losses"), (slice(count, None), "its gradient")):
            a, b = gave[part].double(), first.gave[part].double()
            gap = float((a - b).norm() / b.norm().clamp(min=1e-30))
            if not gap <= max(self._tolerance, 1e-6):
                raise InputError(
                    f"step {first.done.step}, replayed again after step {step}, is no longer what it was: "
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

    def words(self) -> str:
        """What the checks have shown."""
        if not self.done:
            return "not checked"
        how = "bit for bit" if self.gap == 0 else f"to {self.gap:.1e} of the update"
        return f"{self.done} steps replayed, equal {how}"


def _gave(rule: Rule, g: Tensor, losses: Sequence[Tensor]) -> Tensor:
    """All losses of a step, and some entries of the gradient of every parameter."""
    parts = [x.reshape(-1) for x in rule.layout.split(g).values()]
    return torch.cat([x.to(g) for x in losses] + [x[:: max(1, len(x) // _ENTRIES)] for x in parts])


def _checked(
    rule: Rule, step: int, before: Moment, replayed: Moment, recorded: Moment, tolerance: float
) -> float:
    """How far a replayed step is off, relative to the update: 0 = bit for bit. Errors: too far."""
    off = 0.0
    for found in differences(lambda: before.theta, replayed, recorded):
        off = max(off, found.gap)
        if found.gap <= tolerance:
            continue
        if found.kind == "parameter":
            update = recorded.theta - before.theta
            names = rule.layout.names
            parts = [float(x.abs().max()) for x in rule.layout.split(found.values).values()]
            sizes = [float(x.abs().max()) for x in rule.layout.split(update).values()]
            k = max(range(len(parts)), key=lambda i: parts[i] / max(sizes[i], 1e-30))
            raise InputError(
                f"step {step}, replayed, is not what the loop did: parameter {names[k]} differs by up to "
                f"{parts[k]:.2e}, where the recorded update is up to {sizes[k]:.2e}; "
                f"{_hint(update, found.values)}"
            )
        whole = (recorded.slots if found.kind == "optimizer state" else recorded.buffers)[found.name]
        raise InputError(
            f"step {step}, replayed, is not what the loop did: {found.kind} {found.name} differs by "
            f"{found.gap:.1e} of its size; {_hint(whole, found.values)}"
        )
    return off


def _hint(update: Tensor, gap: Tensor) -> str:
    update, gap = update.double().reshape(-1), gap.double().reshape(-1)
    replayed = update + gap
    ratio = float(replayed @ update / (replayed @ replayed).clamp(min=1e-30))
    if float((update - ratio * replayed).norm() / update.norm().clamp(min=1e-30)) < 1e-2:
        return (
            f"it is {ratio:.4g} times the replayed one: check reduction=, accumulate= and clip_norm=, and "
            "whether something scales the gradients"
        )
    return (
        "the loop does something that the tape cannot see: another loss than loss=, clipping without "
        "clip_norm=, a changed gradient, or random numbers from a generator of its own"
    )
