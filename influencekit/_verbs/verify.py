"""Is a store whole, and does it replay? Read its chunks, train its steps again, and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from influencekit._arguments import checked
from influencekit._bars import with_progress
from influencekit._training.state import State
from influencekit._trajectory.integrity import read_all
from influencekit._trajectory.replay_check import (
    compare_stretch,
    describe_difference,
    differences,
    has_losses,
    replay_stretch,
    replay_tolerance,
)
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.meaning import Losses, check_meaning
from influencekit._verbs.open import open
from influencekit._verbs.results import require_run
from influencekit.errors import InputError, StoreError
from influencekit.interfaces import Recorder
from influencekit.progress import track
from influencekit.registry import make

__all__ = ["NearReplay", "Replay", "replayed", "verify"]


_NONE = "no step was trained again, so nothing is known of the replay"


class Replay(NamedTuple):
    """What a replay has shown: how many steps, the largest gap relative to the update (0 = bit for bit), and
    what else was compared, in words."""

    steps: int
    gap: float
    compared: str = ""

    def __str__(self) -> str:
        if not self.steps:
            return f"{_NONE}{_also(self.compared)}"
        how = "bit for bit as recorded" if self.gap == 0 else f"to {self.gap:.1e} of the update as recorded"
        return f"{self.steps} steps trained again, each {how}{_also(self.compared)}"


class NearReplay(NamedTuple):
    """The same of a store that is not lossless: how many steps, the largest gap, by which recorder."""

    steps: int
    gap: float
    recorder: str
    compared: str = ""

    def __str__(self) -> str:
        if not self.steps:
            return f"{_NONE}{_also(self.compared)}"
        how = "" if self.gap == 0 else f", to {self.gap:.1e} of what had changed"
        return (
            f"{self.steps} steps trained again from the first state; the kept states are not the run's own "
            f"but what {self.recorder} makes of them{how} (not lossless){_also(self.compared)}"
        )


def _also(compared: str) -> str:
    return f"; compared: {compared}" if compared else ""


@with_progress
@checked
def verify(run: Trajectory | str | Path, spans: int | None = None, **opened: Any) -> Replay | NearReplay:
    """Read every chunk, and train again from every kept state to the next (or from `spans` of them).

    `run` is a recorded run, or a store, which is opened with `opened`, the other arguments of
    `influencekit.open`: `workload=`, or `model=`, `loss=` and `data=` of a taped run. The result has `steps`,
    how many were trained again, `gap`, the largest difference relative to the update, 0 for bit for bit, and
    `compared`, what else was: ids, batches, learning rates, epochs, losses and data against the workload that
    was built again, or of a taped run against each other; `print` says it in words.

    Errors: `StoreError` that names a chunk which is missing or corrupted, or the steps, the tensor and the
    difference where a replay is not what was recorded. Bit for bit is asked of runs on a CPU; of taped runs
    and of others on a GPU, no more than the tape's tolerance relative to the update. Of a store that is not
    lossless the first `spans` are trained again in one go from the first state, which is exact, and each kept
    state must be what the recorder makes of the run's. Cost: one training run, less for fewer spans.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> found = ik.verify(run)
        >>> found.steps, found.gap
        (2, 0.0)
    """
    if isinstance(run, str | Path):
        run = open(run, **opened)
    elif opened:
        raise InputError(f"verify: {sorted(opened)[0]}= is for a store that is opened, and this run is open")
    trajectory: Trajectory = require_run(run)
    read_all(trajectory.group)
    meaning = check_meaning(trajectory)
    found = replayed(trajectory, spans)
    return found._replace(compared=f"{found.compared}; {meaning}")


def replayed(trajectory: Trajectory, spans: int | None) -> Replay | NearReplay:
    """`verify` without reading the chunks, and without `check_meaning`."""
    kept = trajectory.stored_states
    pairs = list(zip(kept, kept[1:], strict=False))
    if not trajectory.lossless:
        return _verify_near(trajectory, pairs[:spans])
    if spans is not None:
        pairs = pairs[:: max(1, len(pairs) // spans)][:spans] if spans else []
    strict = "tape" not in trajectory.attrs and trajectory.workload.device.type == "cpu"
    tolerance, gap = 0.0 if strict else replay_tolerance(trajectory), 0.0
    known = Losses(trajectory, strict)
    for start, stop in track(pairs, "replay", len(pairs)):
        found: dict[int, Tensor] = {}
        again = replay_stretch(trajectory, start, stop, found.__setitem__)
        gap = max(gap, compare_stretch(trajectory, start, again, tolerance))
        for t, losses in found.items():
            known.compare(t, losses)
    return Replay(sum(stop - start for start, stop in pairs), gap, str(known))


def _verify_near(trajectory: Trajectory, pairs: list[tuple[int, int]]) -> NearReplay:
    recorder: Recorder = make("recorder", trajectory.attrs["recorder"])
    first = state = trajectory.state(trajectory.first)
    tolerance = 0.0 if trajectory.workload.device.type == "cpu" else replay_tolerance(trajectory)
    gap, odd, known = 0.0, None, Losses(trajectory, tolerance == 0)

    def quantized(x: Tensor) -> Tensor:
        return torch.from_numpy(recorder.quantize(x.cpu().numpy())).to(x.device)

    for start, stop in track(pairs, "replay", len(pairs)):
        found: dict[int, Tensor] = {}
        for t in range(start, stop):
            state, losses = trajectory.step.advance(state)
            found[t] = losses
            odd = t if odd is None and not has_losses(trajectory, t, losses) else odd
        mine = state
        if stop != trajectory.attrs["stop"]:  # the last state is exact
            mine = State(quantized(mine.theta), {n: quantized(x) for n, x in mine.slots.items()}, stop)
        for differs in differences(lambda: first.theta, mine, trajectory.state(stop)):
            if not differs.gap <= tolerance:
                raise StoreError(describe_difference(trajectory, first.step, stop, differs, odd))
            gap = max(gap, differs.gap)
        for t, losses in found.items():
            known.compare(t, losses)
    return NearReplay(state.step - first.step, gap, trajectory.attrs["recorder"], str(known))
