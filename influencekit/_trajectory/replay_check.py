"""Whether a replay gives what was recorded: the difference of two states, and stretches compared by it.

A stretch lies between one stored state and the next. Training it again must end in the state that is stored
there. Otherwise the model, the loss or the data are not those of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import zarr
from torch import Tensor

from influencekit._training.plan import Plan
from influencekit._training.state import State
from influencekit._training.step import Step
from influencekit._training.workload import Workload
from influencekit._trajectory.store import read
from influencekit.errors import StoreError

__all__ = [
    "Difference", "check_losses", "compare_stretch", "describe_difference", "differences", "has_losses",
    "replay_stretch", "replay_tolerance", "sample_stretches", "stretches",
]  # fmt: skip

_SAMPLE = 32  # so many single steps are replayed where every state is stored
_TOLERANCE = 5e-3


class Difference(NamedTuple):
    """A tensor that differs between replay and record: `theta`, a slot or a buffer. `gap`: relative size."""

    kind: str  # "parameter", "optimizer state" or "buffer"
    name: str
    gap: float
    values: Tensor


def differences(before: Callable[[], Tensor], replayed: State, recorded: State) -> Iterator[Difference]:
    """Every tensor that is not equal bit for bit.

    The gap of parameters is relative to their update from `before()`, that of optimizer states and buffers
    to their size. Whole numbers are equal, or their gap is infinite.
    """
    if not torch.equal(replayed.theta, recorded.theta):
        values = replayed.theta - recorded.theta
        yield Difference("parameter", "theta", _ratio(values, recorded.theta - before()), values)
    for kind, mine, theirs in (
        ("optimizer state", replayed.slots, recorded.slots),
        ("buffer", replayed.buffers, recorded.buffers),
    ):
        for name, value in theirs.items():
            if not torch.equal(mine[name], value):
                values = mine[name].double() - value.double()
                gap = _ratio(values, value) if value.is_floating_point() else float("inf")
                yield Difference(kind, name, gap, values)


def _ratio(part: Tensor, whole: Tensor) -> float:
    """The size of one vector in units of another's."""
    return float(part.double().norm() / whole.double().norm().clamp(min=torch.finfo(part.dtype).tiny))


class RecordedRun(Protocol):
    """What the comparison needs of a `Trajectory`."""

    group: zarr.Group
    workload: Workload
    step: Step
    plan: Plan
    attrs: Mapping[str, Any]
    first: int
    last: int

    @property
    def stored_states(self) -> list[int]: ...
    def state(self, t: int) -> State: ...


def replay_tolerance(trajectory: RecordedRun) -> float:
    """How far a replay may be off relative to the update, where bitwise equality is not asked for."""
    return float(trajectory.attrs.get("tape", {}).get("tolerance", _TOLERANCE))


def stretches(trajectory: RecordedRun, start: int, stop: int) -> list[tuple[int, int]]:
    """The stretches that hold a step of start ... stop - 1."""
    kept = trajectory.stored_states
    return [(a, b) for a, b in zip(kept, kept[1:], strict=False) if a < stop and start < b]


def sample_stretches(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """At most 32 stretches of one step, evenly spaced, the last among them. (No sweep replays these.)"""
    single = [pair for pair in pairs if pair[1] == pair[0] + 1]
    places = np.linspace(0, len(single) - 1, min(len(single), _SAMPLE)).round().astype(int)
    return [single[i] for i in places]


def replay_stretch(
    trajectory: RecordedRun, start: int, stop: int, seen: Callable[[int, Tensor], None] | None = None
) -> State:
    """State `stop`, trained again from the stored state `start`. `seen` is given each step and its losses."""
    state = trajectory.state(start)
    for t in range(start, stop):
        state, losses = trajectory.step.advance(state)
        if seen is not None:
            seen(t, losses)
    return state


def compare_stretch(trajectory: RecordedRun, start: int, mine: State, tolerance: float) -> float:
    """The largest gap between a stretch trained again from state `start` and the state stored at its end.

    Errors: `StoreError` beyond the tolerance, which names the steps, the tensor and what to look for.
    """
    stop, worst = mine.step, 0.0
    for found in differences(lambda: trajectory.state(start).theta, mine, trajectory.state(stop)):
        if not found.gap <= tolerance:
            raise StoreError(
                describe_difference(trajectory, start, stop, found, _first_odd_loss(trajectory, start, stop))
            )
        worst = max(worst, found.gap)
    return worst


def _first_odd_loss(trajectory: RecordedRun, start: int, stop: int) -> int | None:
    """The first step of a stretch whose losses, trained again, are not those that are stored."""
    state = trajectory.state(start)
    for t in range(start, stop):
        state, losses = trajectory.step.advance(state)
        if not has_losses(trajectory, t, losses):
            return t
    return None


def has_losses(trajectory: RecordedRun, t: int, losses: Tensor) -> bool:
    """Whether these are about the losses [slot] that are stored of step t."""
    return bool(np.allclose(*_known_losses(trajectory, t, losses), rtol=1e-2, atol=1e-4))


def _known_losses(trajectory: RecordedRun, t: int, losses: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """These losses [slot] of step t and the stored ones, of the examples whose losses are stored."""
    stored = read(trajectory.group, "loss", slice(t, t + 1))[0].astype(np.float64)
    known = (trajectory.plan.indices[t].numpy() >= 0) & ~np.isnan(stored)
    return losses.detach().cpu().double().numpy()[known], stored[known]


def check_losses(
    trajectory: RecordedRun, where: str, losses: Tensor | None = None, made_by: str = "workload", *,
    rtol: float = 1e-3, atol: float = 1e-5,
) -> None:  # fmt: skip
    """Refuse a run whose first step does not give the stored losses. `losses` [slot]: if known."""
    t = trajectory.first
    if t == trajectory.last:
        return
    losses = trajectory.step.advance(trajectory.state(t))[1] if losses is None else losses
    mine, stored = _known_losses(trajectory, t, losses)
    if not np.allclose(mine, stored, rtol=rtol, atol=atol):
        raise StoreError(
            f"{where} is not a run of this {made_by}: the mean loss of step {t} is {stored.mean():.6g} in "
            f"the store and {mine.mean():.6g} here; the model's layers, the loss function, the "
            "collation or the data differ"
        )


def describe_difference(
    trajectory: RecordedRun, start: int, stop: int, found: Difference, odd: int | None
) -> str:
    """The difference in words; `odd`: the first step whose losses differ."""
    layout, name = trajectory.workload.layout, found.name
    if found.kind == "buffer":
        size, where = float(found.values.abs().max()), f"buffer {name}"
    else:
        parts = {n: float(x.abs().max()) for n, x in layout.split(found.values).items()}
        worst = max(parts, key=lambda n: parts[n])
        size, where = parts[worst], f"{'' if name == 'theta' else f'{name} of '}parameter {worst}"
    steps = f"step {start}" if stop == start + 1 else f"steps {start} to {stop - 1}"
    since = "" if odd is None or odd == start else f" (losses agree until step {odd - 1})"
    attrs = trajectory.attrs
    return (
        f"{steps}, trained again, {'is' if stop == start + 1 else 'are'} not what was recorded{since}: "
        f"{where} differs by up to {size:.1e}; look for what else the loop did or what had changed by then "
        "(the loss, a setting of the model, the data, a second network or optimizer), or check it where it "
        f"was recorded: on {attrs['device']} with torch {attrs['torch_version']} and "
        f"{_threads(attrs.get('threads'))}; here with torch {torch.__version__} and "
        f"{_threads(torch.get_num_threads())}"
    )


def _threads(number: int | None) -> str:
    if number is None:  # recorded before 0.4
        return "a number of threads that is not known"
    return "1 thread" if number == 1 else f"{number} threads"
