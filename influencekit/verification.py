"""Does a store replay? Train its steps again, from each kept state to the next, and compare."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from influencekit.errors import StoreError
from influencekit.progress import track
from influencekit.step import State
from influencekit.store import read
from influencekit.trajectory import Trajectory

__all__ = ["Replay", "verify"]


class Replay(NamedTuple):
    """What a replay has shown: how many steps, the largest gap relative to the update (0 = bit for bit)."""

    steps: int
    gap: float

    def __str__(self) -> str:
        how = "bit for bit as recorded" if self.gap == 0 else f"to {self.gap:.1e} of the update as recorded"
        return f"{self.steps} steps trained again, each {how}"


def verify(trajectory: Trajectory, spans: int | None = None) -> Replay:
    """Train again from every kept state (or from `spans` of them, evenly spread) to the next one.

    Errors: `StoreError` that names the steps, the tensor and the difference where a replay is not what was
    recorded. Bit for bit is asked of runs on a CPU; of taped runs and of others on a GPU, no more than the
    tape's tolerance relative to the update. Cost: one training run, less for fewer spans.
    """
    kept = trajectory.kept
    pairs = list(zip(kept, kept[1:], strict=False))
    if spans is not None:
        pairs = pairs[:: max(1, len(pairs) // spans)][:spans] if spans else []
    told = trajectory.attrs.get("tape", {})
    strict = not told and trajectory.workload.device.type == "cpu"
    tolerance = 0.0 if strict else float(told.get("tolerance", 5e-3))
    done, gap = 0, 0.0
    for start, stop in track(pairs, "replay", len(pairs)):
        before, recorded = trajectory.state(start), trajectory.state(stop)
        state, odd = before, None
        for t in range(start, stop):
            state, losses = trajectory.step.advance(state)
            odd = t if odd is None and not _same_losses(trajectory, t, losses) else odd
            done += 1
        gap = max(gap, _compared(trajectory, before, state, recorded, odd, tolerance))
    return Replay(done, gap)


def _same_losses(trajectory: Trajectory, t: int, losses: Tensor) -> bool:
    stored = read(trajectory.group, "loss", slice(t, t + 1))[0]
    known = (trajectory.plan.indices[t].numpy() >= 0) & ~np.isnan(stored)
    return bool(np.allclose(losses.detach().cpu().numpy()[known], stored[known], rtol=1e-2, atol=1e-4))


def _compared(
    trajectory: Trajectory, before: State, replayed: State, recorded: State, odd: int | None, tolerance: float
) -> float:
    """The largest gap relative to the update. Errors: beyond the tolerance."""
    worst = 0.0
    mine = {"theta": replayed.theta, **replayed.slots, **replayed.buffers}
    theirs = {"theta": recorded.theta, **recorded.slots, **recorded.buffers}
    first = {"theta": before.theta, **before.slots, **before.buffers}
    for name, value in theirs.items():
        if torch.equal(mine[name], value):
            continue
        difference = (mine[name] - value).double()
        update = (value - first[name]).double().norm().clamp(min=1e-300)
        gap = float(difference.norm() / update)
        worst = max(worst, gap)
        if not gap <= tolerance:
            raise StoreError(_words(trajectory, name, difference, before.step, recorded.step, odd))
    return worst


def _words(
    trajectory: Trajectory,
    name: str,
    difference: Tensor,
    start: int,
    stop: int,
    odd: int | None,
) -> str:
    layout = trajectory.workload.layout
    if name == "theta" or name in trajectory.workload.optimizer.slots:
        parts = {n: float(x.abs().max()) for n, x in layout.split(difference).items()}
        worst = max(parts, key=lambda n: parts[n])
        where = f"parameter {worst}" if name == "theta" else f"{name} of parameter {worst}"
    else:
        parts, worst, where = {name: float(difference.abs().max())}, name, f"buffer {name}"
    steps = f"step {start}" if stop == start + 1 else f"steps {start} to {stop - 1}"
    since = "" if odd is None or odd == start else f" (losses agree until step {odd - 1})"
    return (
        f"{steps}, trained again, {'is' if stop == start + 1 else 'are'} not what was recorded{since}: "
        f"{where} differs by up to {parts[worst]:.1e}; it was recorded on {trajectory.attrs['device']} with "
        f"torch {trajectory.attrs['torch_version']} and {trajectory.attrs.get('threads', 1)} threads: check "
        "it there, or look for what the loop did in these steps besides training"
    )
