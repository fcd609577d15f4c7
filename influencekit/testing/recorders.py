"""The laws of recorders: whatever they keep, every state comes back with the bits it was given.

A recorder that says of itself that it is not lossless gives back what it says it makes of a state.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from influencekit._training.optimizers import AdamW
from influencekit._training.state import State
from influencekit._training.workload import Workload
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.record import record
from influencekit.interfaces import Recorder
from influencekit.recorders import Full
from influencekit.testing.oracle import tiny_workload
from influencekit.testing.untouched import untouched

__all__ = ["RECORDER_LAWS"]


@cache
def _workload() -> Workload:
    return tiny_workload(AdamW(lr=0.05), dtype=torch.float32)


@cache
def _reference() -> Trajectory:
    return record(_workload(), Full())


def kept_states_are_ascending_and_reach_everything(recorder: Recorder) -> None:
    """stored_states(start, stop): ascending from `start` to at most `stop`; the rest is replayed."""
    law = "kept states are ascending and reach everything"
    for start in (0, 1, 7):
        for stop in (*range(start, start + 12), start + 100, start + 1001):
            kept = [int(t) for t in recorder.stored_states(start, stop)]
            ascending = all(a < b for a, b in zip(kept, kept[1:], strict=False))
            if not kept or kept[0] != start or kept[-1] > stop or not ascending:
                raise AssertionError(
                    f"{law}: stored_states({start}, {stop}) = {kept[:20]}; expected to start with {start}"
                )
            if kept != [int(t) for t in recorder.stored_states(start, stop)]:
                raise AssertionError(f"{law}: stored_states({start}, {stop}) is not the same twice")


def no_more_states_are_held_than_it_says(recorder: Recorder) -> None:
    """Stored states, and in a sweep those replayed and yet to come: at most `max_states`, one in hand."""
    law = "no more states are held than it says"
    held = recorder.max_states
    if held is None:
        return
    for start, stop in ((0, 1), (3, 10), (0, 100), (0, 1001)):
        if len(recorder.stored_states(start, stop)) > held:
            raise AssertionError(
                f"{law}: stored_states({start}, {stop}) stores {len(recorder.stored_states(start, stop))}"
            )
    trajectory = record(_workload(), recorder)
    for block in trajectory.blocks(0, trajectory.steps):
        waiting = [t for t in trajectory.stored_states if t < block[0].step]
        if len(block) + len(waiting) > held + 1:
            raise AssertionError(f"{law}: {len(block)} at once with {len(waiting)} to come, says {held}")


def coding_is_as_it_says(recorder: Recorder) -> None:
    """`quantize` keeps shape, dtype, sign, zeros and what is not finite; twice is once; lossless: all bits.

    The first and the last state are exact, the stored ones between are `quantize`, and all can be had.
    """
    law = "coding is as it says"
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        values = torch.randn(1000, generator=generator, dtype=dtype)
        values *= 10.0 ** torch.randint(-30, 30, (1000,), generator=generator)
        values[:5] = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan")])
        given = values.numpy()
        once = recorder.quantize(given.copy())
        same = once.shape == given.shape and once.dtype == given.dtype
        if not same or recorder.quantize(once.copy()).tobytes() != once.tobytes():
            raise AssertionError(f"{law}: shape or dtype changes, or coding twice is not coding once")
        if once[:4].tobytes() != given[:4].tobytes() or (np.signbit(once) != np.signbit(given)).any():
            raise AssertionError(f"{law}: zeros, infinities or signs change")
        if recorder.lossless and once.tobytes() != given.tobytes():
            raise AssertionError(f"{law}: it says it is lossless, and changes numbers")
    trajectory, reference = record(_workload(), recorder), _reference()
    if trajectory.lossless != recorder.lossless:
        raise AssertionError(f"{law}: the store does not say whether it is lossless")
    for t in trajectory.stored_states:
        expected = reference.state(t).theta
        if t not in (0, trajectory.steps):
            expected = torch.from_numpy(recorder.quantize(expected.numpy().copy()))
        if not torch.equal(trajectory.state(t).theta, expected):
            raise AssertionError(f"{law}: stored state {t} is not what it makes of the run's")


def states_come_back_bitwise(recorder: Recorder) -> None:
    """Every state, stored or replayed, in any order: the float32 parameters and optimizer slots of `full`.

    Of a recorder that is not lossless: each as its own nearest stored state gives it by training.
    """
    trajectory = record(_workload(), recorder)
    reference = _reference() if recorder.lossless else _Replayed(trajectory)
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
    trajectory, reference = record(_workload(), recorder, window=(2, 5)), _reference()
    if (trajectory.first, trajectory.last) != (2, 5):
        raise AssertionError(
            f"a window alone: asked for the states 2 to 5, got {trajectory.first} to {trajectory.last}"
        )
    for t in range(2, 6) if recorder.lossless else (2, 5):
        _same("a window alone can be recorded", trajectory, reference, t)


def pure(recorder: Recorder) -> None:
    """Recording leaves the model, the data and torch's global state as they were."""
    with untouched("pure", _workload()):
        record(_workload(), recorder)


class _Replayed:
    """The states of a trajectory in plain order, from the stored ones by training."""

    def __init__(self, trajectory: Trajectory) -> None:
        self._found: dict[int, State] = {}
        for t in range(trajectory.steps + 1):
            stored = t in trajectory.stored_states
            self._found[t] = trajectory.state(t) if stored else trajectory.step.advance(self._found[t - 1])[0]

    def state(self, t: int) -> State:
        return self._found[t]


def _same(law: str, trajectory: Trajectory, reference: Trajectory | _Replayed, t: int) -> None:
    found, expected = trajectory.state(t), reference.state(t)
    names = [k for k in expected.slots if not torch.equal(found.slots[k], expected.slots[k])]
    if found.step != t or names or not torch.equal(found.theta, expected.theta):
        raise AssertionError(
            f"{law}: state {t} differs from the recorded one ({', '.join(names) or 'theta'})"
        )


RECORDER_LAWS: list[Callable[[Recorder], None]] = [
    kept_states_are_ascending_and_reach_everything,
    no_more_states_are_held_than_it_says,
    coding_is_as_it_says,
    states_come_back_bitwise,
    a_window_alone_can_be_recorded,
    pure,
]
