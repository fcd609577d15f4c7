"""The laws of recorders: whatever they keep, every state comes back with the bits it was given."""

from collections.abc import Callable
from functools import cache

import torch

from influencekit.interfaces import Recorder
from influencekit.optimizers import AdamW
from influencekit.pipeline import record
from influencekit.recorders.full import Full
from influencekit.testing.oracle import tiny_workload
from influencekit.testing.untouched import untouched
from influencekit.trajectory import Trajectory
from influencekit.workload import Workload

__all__ = ["RECORDER_LAWS"]


@cache
def _workload() -> Workload:
    return tiny_workload(AdamW(lr=0.05), dtype=torch.float32)


@cache
def _reference() -> Trajectory:
    return record(_workload(), Full())


def kept_states_are_ascending_and_reach_everything(recorder: Recorder) -> None:
    """kept(start, stop): ascending whole numbers from `start` (the rest is replayed) to at most `stop`."""
    law = "kept states are ascending and reach everything"
    for start in (0, 1, 7):
        for stop in (*range(start, start + 12), start + 100, start + 1001):
            kept = [int(t) for t in recorder.kept(start, stop)]
            ascending = all(a < b for a, b in zip(kept, kept[1:], strict=False))
            if not kept or kept[0] != start or kept[-1] > stop or not ascending:
                raise AssertionError(
                    f"{law}: kept({start}, {stop}) = {kept[:20]}; expected to start with {start}"
                )
            if kept != [int(t) for t in recorder.kept(start, stop)]:
                raise AssertionError(f"{law}: kept({start}, {stop}) is not the same twice")


def states_come_back_bitwise(recorder: Recorder) -> None:
    """Every state, stored or replayed, in any order: the float32 parameters and optimizer slots of `full`."""
    trajectory, reference = record(_workload(), recorder), _reference()
    generator = torch.Generator().manual_seed(0)
    for t in [
        *range(trajectory.steps + 1),
        *torch.randperm(trajectory.steps + 1, generator=generator).tolist(),
    ]:
        _same("states come back bitwise", trajectory, reference, t)
    found = [state for block in reversed(list(trajectory.blocks(0, trajectory.steps + 1))) for state in block]
    if [state.step for state in found] != list(range(trajectory.steps + 1)):
        raise AssertionError(f"states come back bitwise: blocks gave the states {[s.step for s in found]}")
    for state in found:
        if not torch.equal(state.theta, reference.state(state.step).theta):
            raise AssertionError(f"states come back bitwise: state {state.step} differs in a block")


def a_window_alone_can_be_recorded(recorder: Recorder) -> None:
    """Recording (2, 5) holds the states 2 ... 5 of the whole run, bitwise."""
    trajectory = record(_workload(), recorder, window=(2, 5))
    if (trajectory.first, trajectory.last) != (2, 5):
        raise AssertionError(
            f"a window alone: asked for the states 2 to 5, got {trajectory.first} to {trajectory.last}"
        )
    for t in range(2, 6):
        _same("a window alone can be recorded", trajectory, _reference(), t)


def pure(recorder: Recorder) -> None:
    """Recording leaves the model, the data and torch's global state as they were."""
    with untouched("pure", _workload()):
        record(_workload(), recorder)


def _same(law: str, trajectory: Trajectory, reference: Trajectory, t: int) -> None:
    found, expected = trajectory.state(t), reference.state(t)
    names = [k for k in expected.slots if not torch.equal(found.slots[k], expected.slots[k])]
    if found.step != t or names or not torch.equal(found.theta, expected.theta):
        raise AssertionError(
            f"{law}: state {t} differs from the recorded one ({', '.join(names) or 'theta'})"
        )


RECORDER_LAWS: list[Callable[[Recorder], None]] = [
    kept_states_are_ascending_and_reach_everything,
    states_come_back_bitwise,
    a_window_alone_can_be_recorded,
    pure,
]
