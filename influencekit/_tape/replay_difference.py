"""How a replayed step differs from what the loop did, and what may have caused it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from influencekit._tape.optimizer import UpdateRule
from influencekit._training.state import State
from influencekit._trajectory.replay_check import differences
from influencekit.errors import InputError

__all__ = ["compare_step", "sample_of"]

_ENTRIES = 512  # of the gradient of every parameter


def sample_of(rule: UpdateRule, g: Tensor, losses: Sequence[Tensor]) -> Tensor:
    """All losses of a step, and some entries of the gradient of every parameter."""
    parts = [x.reshape(-1) for x in rule.layout.split(g).values()]
    return torch.cat([x.to(g) for x in losses] + [x[:: max(1, len(x) // _ENTRIES)] for x in parts])


def compare_step(
    rule: UpdateRule, before: State, replayed: State, recorded: State, tolerance: float,
    why: Callable[[], str | None] = lambda: None,
) -> float:  # fmt: skip
    """The gap between a replayed step and the loop's, relative to the update: 0 = bit for bit.

    Errors: a gap beyond the tolerance, with the tensor and the cause: what `why` finds, or a likely one.
    """
    step, worst = before.step, 0.0
    for found in differences(lambda: before.theta, replayed, recorded):
        worst = max(worst, found.gap)
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
                f"{why() or _hint(update, found.values)}"
            )
        whole = (recorded.slots if found.kind == "optimizer state" else recorded.buffers)[found.name]
        raise InputError(
            f"step {step}, replayed, is not what the loop did: {found.kind} {found.name} differs by "
            f"{found.gap:.1e} of its size; {why() or _hint(whole, found.values)}"
        )
    return worst


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
        "clip_norm= or clip_value=, a changed gradient, or random numbers from a generator of its own"
    )
