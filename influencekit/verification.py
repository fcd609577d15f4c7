"""Does a store replay? Train its steps again, from each kept state to the next, and compare."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from influencekit.errors import StoreError
from influencekit.interfaces import Recorder
from influencekit.progress import track
from influencekit.registry import make
from influencekit.step import State
from influencekit.store import read
from influencekit.trajectory import Trajectory

__all__ = ["NearReplay", "Replay", "verify"]


class Replay(NamedTuple):
    """What a replay has shown: how many steps, the largest gap relative to the update (0 = bit for bit)."""

    steps: int
    gap: float

    def __str__(self) -> str:
        how = "bit for bit as recorded" if self.gap == 0 else f"to {self.gap:.1e} of the update as recorded"
        return f"{self.steps} steps trained again, each {how}"


class NearReplay(NamedTuple):
    """The same of a store that is not lossless: how many steps, the largest gap, by which recorder."""

    steps: int
    gap: float
    recorder: str

    def __str__(self) -> str:
        how = "" if self.gap == 0 else f", to {self.gap:.1e} of what had changed"
        return (
            f"{self.steps} steps trained again from the first state; the kept states are not the run's own "
            f"but what {self.recorder} makes of them{how} (not lossless)"
        )


def verify(trajectory: Trajectory, spans: int | None = None) -> Replay | NearReplay:
    """Train again from every kept state (or from `spans` of them, evenly spread) to the next one.

    Errors: `StoreError` that names the steps, the tensor and the difference where a replay is not what was
    recorded. Bit for bit is asked of runs on a CPU; of taped runs and of others on a GPU, no more than the
    tape's tolerance relative to the update. Of a store that is not lossless the first `spans` are trained
    again in one go from the first state, which is exact, and each kept state must be what the recorder makes
    of the run's. Cost: one training run, less for fewer spans.
    """
    kept = trajectory.kept
    pairs = list(zip(kept, kept[1:], strict=False))
    if not trajectory.lossless:
        return _verify_near(trajectory, pairs[:spans])
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


def _verify_near(trajectory: Trajectory, pairs: list[tuple[int, int]]) -> NearReplay:
    recorder: Recorder = make("recorder", trajectory.attrs["recorder"])
    first = state = trajectory.state(trajectory.first)
    tolerance = 0.0 if trajectory.workload.device.type == "cpu" else 5e-3
    gap, odd = 0.0, None

    def coded(x: Tensor) -> Tensor:
        return torch.from_numpy(recorder.coded(x.cpu().numpy())).to(x.device)

    for start, stop in track(pairs, "replay", len(pairs)):
        for t in range(start, stop):
            state, losses = trajectory.step.advance(state)
            odd = t if odd is None and not _same_losses(trajectory, t, losses) else odd
        recorded, mine = trajectory.state(stop), state
        if stop != trajectory.attrs["stop"]:  # the last state is exact
            mine = State(coded(mine.theta), {n: coded(x) for n, x in mine.slots.items()}, stop)
        gap = max(gap, _compared(trajectory, first, mine, recorded, odd, tolerance))
    return NearReplay(state.step - first.step, gap, trajectory.attrs["recorder"])


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
