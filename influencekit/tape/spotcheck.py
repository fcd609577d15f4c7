"""Replay of randomly chosen steps while the loop runs, to see that a replay is what the loop did."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from influencekit.errors import InputError
from influencekit.layout import Layout
from influencekit.optimizers import Optimizer, Slots
from influencekit.tape.replica import Call, Micro, Replica, set_modes

__all__ = ["Moment", "Rule", "SpotCheck", "compared"]

_ALLOWANCE = 0.1  # seconds that checks may take in any case: short runs are checked throughout


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


class SpotCheck:
    """Replays the first step, and others as `share` of the loop's time allows (1 = all); `share` 0: none."""

    def __init__(self, model: nn.Module, call: Call, share: float, tolerance: float) -> None:
        self._share, self._tolerance = share, tolerance
        self._replica = Replica(model, call) if share else None
        self._random = random.Random(0)
        self._began, self._spent, self._first = time.perf_counter(), 0.0, 0.0
        self._before: Moment | None = None
        self.wanted, self.done, self.gap = False, 0, 0.0

    def use(self, call: Call) -> None:
        """Fetch and evaluate in this way from now on."""
        if self._replica is not None:
            self._replica.call = call

    def decide(self) -> bool:
        """Whether the step that is about to begin will be replayed."""
        each = self._spent / (self.done - 1) if self.done > 1 else self._first / 2  # which warmed up, too
        budget = self._share * (time.perf_counter() - self._began)
        self.wanted = self._replica is not None and (
            self.done == 0
            or self._share == 1
            or self._spent + each <= _ALLOWANCE
            or (self._spent + each <= budget and self._random.random() < 0.5)
        )
        return self.wanted

    def before(self, moment: Moment) -> None:
        """The state before the step."""
        self._before = moment

    def after(
        self, step: int, micros: Sequence[Micro], coefficients: np.ndarray, lrs: Sequence[float], rule: Rule,
        autocast: torch.dtype | None, training: dict[str, bool], separable: bool, reached: Moment,
    ) -> None:  # fmt: skip
        """Do the step again and compare. Errors: it is not what the loop did; losses not separable."""
        assert self._replica is not None and self._before is not None
        began, state, replica = time.perf_counter(), self._before, self._replica
        set_modes(replica.model, training)
        weights = torch.from_numpy(coefficients).to(state.theta)
        batches = [
            (replica.call.batch(m, state.theta.device), weights[m.slots], m.forward_rng) for m in micros
        ]
        if self.done == 0 and separable:
            with replica.at(rule.layout, state.theta, state.buffers):
                if not replica.separable(batches[0][0], batches[0][2]):
                    raise InputError(_together(replica.model))
        g, _, buffers = replica.gradient(rule.layout, state.theta, state.buffers, batches, autocast)
        theta, slots = rule.optimizer.step(
            rule.layout, state.theta, state.slots, g, rule.updates + step, list(lrs)
        )
        replayed = Moment(theta, slots, buffers)
        try:
            gap = compared(rule, step, state, replayed, reached, self._tolerance)
        except InputError as error:
            inside = "; under autocast, a replay computes the loss there, too" if autocast else ""
            raise InputError(f"{error}{inside}") from None
        self.gap = max(self.gap, gap)
        self._before = None
        if self.done:
            self._spent += time.perf_counter() - began
        else:
            self._first = time.perf_counter() - began
        self.done += 1

    def words(self) -> str:
        """What the checks have shown."""
        if not self.done:
            return "not checked"
        how = "bit for bit" if self.gap == 0 else f"to {self.gap:.1e} of the update"
        return f"{self.done} steps replayed, equal {how}"


def compared(
    rule: Rule, step: int, before: Moment, replayed: Moment, recorded: Moment, tolerance: float
) -> float:
    """How far a replayed step is off, relative to the update: 0 = bit for bit. Errors: too far."""
    update = recorded.theta - before.theta
    gap = replayed.theta - recorded.theta
    same = torch.equal(replayed.theta, recorded.theta)
    off = 0.0 if same else float(gap.norm() / update.norm().clamp(min=torch.finfo(gap.dtype).tiny))
    if not off <= tolerance:
        names = rule.layout.names
        parts = [float(x.abs().max()) for x in rule.layout.split(gap).values()]
        sizes = [float(x.abs().max()) for x in rule.layout.split(update).values()]
        k = max(range(len(parts)), key=lambda i: parts[i] / max(sizes[i], 1e-30))
        raise InputError(
            f"step {step}, replayed, is not what the loop did: parameter {names[k]} differs by up to "
            f"{parts[k]:.2e}, where the recorded update is up to {sizes[k]:.2e}; {_hint(update, gap)}"
        )
    for kind, mine, theirs in (
        ("optimizer state", replayed.slots, recorded.slots),
        ("buffer", replayed.buffers, recorded.buffers),
    ):
        for name, value in mine.items():
            if torch.equal(value, theirs[name]):
                continue
            distance = (value.double() - theirs[name].double()).norm()
            change = float(distance / theirs[name].double().norm().clamp(min=1e-30))
            if not change <= tolerance:
                raise InputError(
                    f"step {step}, replayed, is not what the loop did: {kind} {name} differs by {change:.1e} "
                    f"of its size; {_hint(theirs[name], value - theirs[name])}"
                )
            off = max(off, change)
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


def _together(model: nn.Module) -> str:
    found = [n for n, m in model.named_modules() if "BatchNorm" in type(m).__name__ and m.training]
    where = f" (layers {', '.join(found)} in training mode)" if found else ""
    return (
        f"the loss of an example depends on the other examples of its batch{where}; influence of single "
        "examples is not defined then: use layer or group norm or put batch norm in eval mode, or pass "
        "separable=False, which keeps a removed example in those statistics and marks the results"
    )
