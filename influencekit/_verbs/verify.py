"""Does a store replay? Train its steps again, from each kept state to the next, and compare."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from influencekit._training.state import State
from influencekit._trajectory.replay_check import (
    compare_stretch,
    describe_difference,
    differences,
    has_losses,
    replay_stretch,
    replay_tolerance,
)
from influencekit._trajectory.trajectory import Trajectory
from influencekit.errors import StoreError
from influencekit.interfaces import Recorder
from influencekit.progress import track
from influencekit.registry import make

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
    kept = trajectory.stored_states
    pairs = list(zip(kept, kept[1:], strict=False))
    if not trajectory.lossless:
        return _verify_near(trajectory, pairs[:spans])
    if spans is not None:
        pairs = pairs[:: max(1, len(pairs) // spans)][:spans] if spans else []
    strict = "tape" not in trajectory.attrs and trajectory.workload.device.type == "cpu"
    tolerance, gap = 0.0 if strict else replay_tolerance(trajectory), 0.0
    for start, stop in track(pairs, "replay", len(pairs)):
        gap = max(gap, compare_stretch(trajectory, start, replay_stretch(trajectory, start, stop), tolerance))
    return Replay(sum(stop - start for start, stop in pairs), gap)


def _verify_near(trajectory: Trajectory, pairs: list[tuple[int, int]]) -> NearReplay:
    recorder: Recorder = make("recorder", trajectory.attrs["recorder"])
    first = state = trajectory.state(trajectory.first)
    tolerance = 0.0 if trajectory.workload.device.type == "cpu" else replay_tolerance(trajectory)
    gap, odd = 0.0, None

    def quantized(x: Tensor) -> Tensor:
        return torch.from_numpy(recorder.quantize(x.cpu().numpy())).to(x.device)

    for start, stop in track(pairs, "replay", len(pairs)):
        for t in range(start, stop):
            state, losses = trajectory.step.advance(state)
            odd = t if odd is None and not has_losses(trajectory, t, losses) else odd
        mine = state
        if stop != trajectory.attrs["stop"]:  # the last state is exact
            mine = State(quantized(mine.theta), {n: quantized(x) for n, x in mine.slots.items()}, stop)
        for found in differences(lambda: first.theta, mine, trajectory.state(stop)):
            if not found.gap <= tolerance:
                raise StoreError(describe_difference(trajectory, first.step, stop, found, odd))
            gap = max(gap, found.gap)
    return NearReplay(state.step - first.step, gap, trajectory.attrs["recorder"])
