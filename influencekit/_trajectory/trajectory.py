"""A recorded run, opened: states, batches and learning rates, in memory, on disk, or replayed."""

from collections.abc import Iterable, Iterator, Mapping
from copy import copy, deepcopy
from functools import cached_property, partial
from typing import Any, NoReturn, Self

import numpy as np
import torch
import xarray as xr
import zarr
from torch import Tensor

from influencekit._arguments import whole_number
from influencekit._exclusive import exclusive
from influencekit._training.buffers import unpacked
from influencekit._training.plan import Plan
from influencekit._training.state import State
from influencekit._training.step import Step
from influencekit._training.workload import Workload
from influencekit._trajectory.binomial_schedule import backwards
from influencekit._trajectory.blocks import Block, Limits, blocks_of
from influencekit._trajectory.ending import Ending, PartialSum
from influencekit._trajectory.fingerprint import shared_contents
from influencekit._trajectory.replay_check import (
    compare_stretch,
    replay_stretch,
    replay_tolerance,
    sample_stretches,
    stretches,
)
from influencekit._trajectory.store import read, shown
from influencekit._trajectory.unchanged import Unchanged
from influencekit.errors import InputError, StoreError
from influencekit.progress import track

__all__ = ["Trajectory"]

_LARGE = 16 << 20  # bytes of a state that is read again rather than held


class Trajectory:
    """One recorded run of one workload.

    State t is the state before update t; states `first` ... `last` can be had. `step` is the training step
    that made it. Whatever is asked for is read from the store, or replayed from the nearest stored state.

    Example:

        >>> import influencekit as ik
        >>> run = ik.record(ik.make("workload", "mnist-1v7-lr:n_train=24:epochs=2"))
        >>> run.first, run.last, run.state(1).theta.shape
        (0, 2, torch.Size([785]))
        >>> run.dataset.batch.dims
        ('step', 'slot')
    """

    workload: Workload
    """The problem: model, loss, data."""
    plan: Plan
    """Batches, learning rates and epochs."""
    step: Step
    """The training step, with its derivatives."""
    first: int
    """The first state that can be had."""
    last: int
    """The last one."""
    attrs: Mapping[str, Any]
    """What the store says of the run."""
    unchanged: Unchanged
    """Whether data and loss are what they were when the run was recorded or opened."""
    ending: Ending | None
    """What queries read at the end of the run, where it is not the last state."""

    def __init__(self, group: zarr.Group, workload: Workload, step: Step | None = None) -> None:
        self.group = group
        self.workload = workload
        self.step = step or Step(workload)
        self.attrs = dict(group.attrs)
        self.plan = self.step.plan
        kept = read(group, "kept")
        self.first = int(self.attrs["start"])
        if len(kept) and (kept[0] != self.first or (np.diff(kept) <= 0).any()):
            raise StoreError(
                f"{shown(group)}: the array 'kept' does not ascend from the first "
                f"state, {self.first}; record again"
            )
        self._stored = kept[kept <= self.attrs["committed"]]
        self.last = int(self.attrs["committed"])
        self._asked: State | None = None
        self._taped = "tape" in self.attrs
        self._compared = set[int]()  # the starts of stretches that were replayed and compared
        now, known = partial(shared_contents, workload), self.attrs.get("contents", {})
        self.unchanged = Unchanged(now, known, workload.loss, self.step.loss_settings)
        self.ending = None
        self._sum: PartialSum | None = None
        self._average: State | None = None
        self.reruns: dict[Any, Any] = {}  # of this run with other weights, by what asked for them
        again = self.attrs.get("reloaded")
        if again is not None and again != self.steps:  # the loop's own model at its end
            self.ending = Ending({int(again): 1.0}, {int(again): 1.0}, "reloaded", asked=False)

    def __reduce__(self) -> NoReturn:
        raise InputError("a run cannot be pickled: pass its store's path, and call ik.open in that process")

    def __copy__(self) -> Self:
        vars(other := object.__new__(type(self))).update(vars(self))
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        vars(other := copy(self)).update(deepcopy(vars(self), memo))
        return other

    @property
    def stored_states(self) -> list[int]:
        """The numbers of the stored states, ascending."""
        return self._stored.tolist()

    @property
    def max_states(self) -> int | None:
        """How many states a sweep may hold, as the recorder says (`Recorder.max_states`)."""
        return self.attrs.get("held")  # type: ignore[no-any-return]

    @property
    def lossless(self) -> bool:
        """Whether stored states are those of the run, bit for bit."""
        return bool(self.attrs.get("lossless", True))

    @property
    def caution(self) -> str:
        """One line that results on this recording must carry; empty as a rule."""
        said = [self.step.caution] if self.step.caution else []
        if not self.lossless:
            said.append(
                f"the states were stored by {self.attrs['recorder']}, which is not lossless: scores are "
                "those of nearby states"
            )
        if self.attrs["status"] == "recording":
            said.append(f"the run has not ended: these are its first {self.last} steps")
        if "caution" in self.attrs:
            said.append(str(self.attrs["caution"]))
        return "; ".join(said)

    @property
    def steps(self) -> int:
        """The number of steps of the whole run, recorded or not."""
        return self.plan.steps

    @cached_property
    def dataset(self) -> xr.Dataset:
        """The store as xarray sees it, lazily: an array is read when it is asked for; `chunk()` for dask."""
        return xr.open_zarr(self.group.store, chunks=None)

    @exclusive()
    def state(self, t: int) -> State:
        """The state before update t (t = steps gives the final one)."""
        t = t if type(t) is int else whole_number("state", t)
        if self._taped and t not in self._stored:
            self.check_replay(t, t + 1)
        if t in self._stored and self._state_bytes > _LARGE:
            return self._states(t, t + 1)[0]
        if self._asked is None or self._asked.step != t:  # every method asks for the final state
            self._asked = self._states(t, t + 1)[0]
        return self._asked.copied()  # whoever gets it may change it

    @exclusive()
    def check_replay(self, start: int, stop: int) -> None:
        """Check that the steps start ... stop - 1 of a taped run, replayed, are what was recorded.

        Every stretch between stored states is trained again and compared with the state at its end; where all
        states are stored, a sample of about 32 steps. Nothing is compared twice. Runs that `record` trained
        need none of this. Errors: `StoreError`, which names the steps, the tensor and what to look for. Cost:
        at most one training run.
        """
        if self._taped:
            pairs = stretches(self, start, stop)
            self._replay([(a, b) for a, b in pairs if b > a + 1] + sample_stretches(pairs))

    def _replay(self, pairs: list[tuple[int, int]]) -> None:
        pairs = [(a, b) for a, b in pairs if a not in self._compared]
        for a, b in track(pairs, "replay", len(pairs)) if pairs else ():
            compare_stretch(self, a, replay_stretch(self, a, b), replay_tolerance(self))
            self._compared.add(a)

    def _close(self, last: State) -> None:
        """Check the end of a stretch, of which `last` is the last replayed state."""
        place = int(np.searchsorted(self._stored, last.step, side="right"))
        if place == len(self._stored) or self._stored[place] != last.step + 1:
            return
        start = int(self._stored[place - 1])
        asked = self._taped or (self.lossless and self.max_states is None)
        if asked and start < last.step and start not in self._compared:
            compare_stretch(self, start, self.step.advance(last)[0], replay_tolerance(self))
            self._compared.add(start)

    def blocks(self, start: int, stop: int, what: str = "sweep") -> Iterator[list[State]]:
        """The states start ... stop - 1 in lists of consecutive ones, the last list first.

        Where stored states are close, a list is read; where they are far apart, it is what lies between two
        of them, replayed once, or by the optimal binomial schedule where that does not fit the memory set
        aside, or the number of states that the recorder allows. Let go of a list before you take the next.
        Errors: `StoreError` where a replay does not end in the state that is stored next (`check_replay`).
        """
        if self._taped and start < stop:  # what the sweep itself does not replay to its end
            within = stretches(self, start, stop)
            self._replay(sample_stretches(within) + [(a, b) for a, b in within if b > max(stop, a + 1)])
        pairs = list(self._stretches(start, stop))[::-1]
        for low, high, places in track(pairs, what, len(pairs)):
            if high - low <= places + 1:
                found = self._states(low, high)
                self._close(found[-1])
                yield found
                del found
            else:
                lists = backwards(
                    self._states(low, low + 1)[0], high - low, places, lambda s: self.step.advance(s)[0]
                )
                first = next(lists)
                self._close(first[-1])
                yield first
                del first
                yield from lists

    def _stretches(self, start: int, stop: int) -> Iterator[Block]:
        """What to read or replay at once, and how many states may be held meanwhile."""
        chunk: int = self.group["theta"].chunks[0]  # type: ignore[union-attr]
        return blocks_of(self._stored, start, stop, Limits(self._state_bytes, chunk, self.max_states))

    @property
    def _state_bytes(self) -> int:
        return (1 + len(self.workload.optimizer.slots)) * self.workload.theta0.nbytes

    def _below(self, t: int) -> int:
        """The place in the store of the nearest stored state up to t."""
        return int(np.searchsorted(self._stored, t, side="right")) - 1

    def _states(self, start: int, stop: int) -> list[State]:
        if not self.first <= start < stop <= self.last + 1:
            raise InputError(
                f"states {start} to {stop - 1} are asked for, but the trajectory holds {self.first} to "
                f"{self.last}; record a run that covers them"
            )
        low = self._below(start)
        high = int(np.searchsorted(self._stored, stop, side="left"))
        stored = self._read(low, max(high, low + 1))
        found: list[State] = []
        state = stored[int(self._stored[low])]
        for t in range(state.step, stop):
            if t > state.step:
                if t in stored:
                    self._close(state)
                state = stored[t] if t in stored else self.step.advance(state)[0]
            if t >= start:
                found.append(state)
        return found

    def _read(self, low: int, high: int) -> dict[int, State]:
        names = ("theta", *self.workload.optimizer.slots)
        device = self.workload.device
        arrays = [torch.from_numpy(read(self.group, n, slice(low, high))).to(device) for n in names]
        buffers, changing = None, dict[str, Tensor]()
        if "buffers" in self.group:
            own, described = dict(self.workload.model.named_buffers()), self.attrs["buffers"]
            buffers = read(self.group, "buffers", slice(low, high))
            changing = {name: own[name] for name, _ in described}
        rows = {}
        for k, t in enumerate(self._stored[low:high]):
            theta, *slots = (array[k] for array in arrays)
            mine = {} if buffers is None else unpacked(buffers[k], changing)
            rows[int(t)] = State(theta, dict(zip(names[1:], slots, strict=True)), int(t), mine)
        return rows

    def with_ending(self, ending: Ending | None) -> Self:
        """The same run, of which queries read this model at the end; None = the last state."""
        if ending is not None and not self.first <= ending.first <= ending.last <= self.last:
            raise InputError(
                f"average: it needs the states {ending.first} to {ending.last}, and the recording holds "
                f"{self.first} to {self.last}"
            )
        vars(other := copy(self)).update(ending=ending, _sum=None, _average=None)
        if self.workload.test is not None and "accuracy" in self.attrs:
            kept = {k: v for k, v in self.attrs.items() if k != "accuracy_note"}
            there = other.workload_at(self.steps), other.evaluated(self.steps).theta
            other.attrs = {**kept, **there[0].judge(there[1]).attrs()}
        return other

    def weights(self, t: int) -> tuple[Mapping[int, float], Mapping[int, float]]:
        """{state: weight} of the parameters and of the buffers that queries read at `t`: those of state t,
        or at the end of the run those of `ending`."""
        if t == self.steps and self.ending is not None:
            return self.ending.weights, self.ending.of_buffers
        return {t: 1.0}, {t: 1.0}

    def last_read(self, t: int) -> int:
        """The last state that counts for what queries read at `t`."""
        return self.ending.last if t == self.steps and self.ending is not None else t

    def evaluated(self, t: int) -> State:
        """What queries read at `t`: state t, or at the end of the run what `ending` makes of its states."""
        if self.ending is None or whole_number("state", t) != self.steps:
            return self.state(t)
        if self._average is None:
            self._average = self.partial_sum(self.ending.last).value(t)
        return self._average.copied()

    def partial_sum(self, upto: int) -> PartialSum:
        """The part of the average at the end that states 0 ... upto give. Cost: reading, or replaying, the
        states between this one and the one that was asked for before."""
        assert self.ending is not None
        ending, upto = self.ending, min(upto, self.ending.last)
        before = self._sum.upto if self._sum is not None else ending.last + 1
        far = len(ending.states(min(before, upto) + 1, max(before, upto) + 1))
        if self._sum is None or far > len(ending.states(0, upto + 1)):
            self._sum = PartialSum(ending, self.state(ending.first))
        self._sum.move(upto, self._some)
        return self._sum.copied()

    def _some(self, numbers: list[int]) -> Iterable[State]:
        """The states of these numbers, in any order."""
        low, high = numbers[0], numbers[-1] + 1
        few = len(self._stored) <= self.last - self.first or 16 * len(numbers) < high - low
        if len(numbers) == 1 or (few and set(numbers) <= set(self.stored_states)):
            yield from map(self.state, numbers)
            return
        wanted = set(numbers)
        for block in self.blocks(low, high, "average"):
            yield from (state for state in block if state.step in wanted)

    def workload_at(self, t: int) -> Workload:
        """The workload, its queries evaluated with the buffers (running statistics) that are read at `t`."""
        if "buffers" not in self.group:
            return self.workload
        return self.workload.with_buffers(self.evaluated(t).buffers)

    @property
    def final(self) -> State:
        """The state after the last update; an error when the recording does not reach it."""
        return self.state(self.steps)
