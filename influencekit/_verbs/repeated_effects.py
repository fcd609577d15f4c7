"""Leave-one-out of several runs, for `ceiling`: kept, retrained here, or each run a slice on an executor."""

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import NamedTuple, Protocol

import numpy as np
import xarray as xr

from influencekit._effects.sliced import asked_of, session_for
from influencekit._executors.slices import Slice
from influencekit._trajectory.code_key import code_key
from influencekit._trajectory.fingerprint import digest
from influencekit._trajectory.trajectory import Trajectory
from influencekit._verbs.estimate import estimate
from influencekit._verbs.kept_effects import KeptEffects, OneRun
from influencekit.errors import DivergedError
from influencekit.estimators.loo import LOO
from influencekit.interfaces import Query
from influencekit.progress import track
from influencekit.registry import label
from influencekit.windows import Window

__all__ = ["Measured", "Recorded", "Repetition", "effects_of_runs"]


class Repetition(Protocol):
    """Another run of the same examples; its text names it."""

    def start(self, trajectory: Trajectory) -> str:
        """A digest that tells its start from others, without training."""

    def again(self, trajectory: Trajectory) -> Trajectory:
        """The run itself."""


class Recorded:
    """The recorded run itself, as a repetition."""

    def __str__(self) -> str:
        return "recorded"

    def start(self, trajectory: Trajectory) -> str:
        return digest([trajectory.step.start().theta])

    def again(self, trajectory: Trajectory) -> Trajectory:
        return trajectory


class Measured(NamedTuple):
    """The effects of one run, and the seconds that they took; NaN where they were kept."""

    found: OneRun
    seconds: float


def effects_of_runs(
    trajectory: Trajectory, others: Sequence[Repetition], query: Query, single: LOO,
    windows: Sequence[Window], kept: KeptEffects | None, shape: tuple[int, ...],
) -> list[Measured]:  # fmt: skip
    """The effects of every run, in order: those that are kept, and the rest retrained, and kept."""
    starts = [other.start(trajectory) for other in others]
    done = dict[int, Measured]()
    for number, (other, start) in enumerate(zip(others, starts, strict=True)):
        found = None if kept is None else kept.read(str(other), start, shape)
        if found is not None:
            done[number] = Measured(found, np.nan)
    todo = [number for number in range(len(others)) if number not in done]
    given = query, single, windows
    with closing(_each(trajectory, [others[k] for k in todo], [starts[k] for k in todo], *given)) as each:
        for place, run, seconds in each:
            number = todo[place]
            found = OneRun(run.effects.values, float(run.accuracy), starts[number])
            done[number] = Measured(found, seconds)
            if kept is not None:
                kept.write(str(others[number]), found)
    return [done[number] for number in range(len(others))]


def _each(
    trajectory: Trajectory, others: Sequence[Repetition], starts: Sequence[str], query: Query, single: LOO,
    windows: Sequence[Window],
) -> Generator[tuple[int, xr.Dataset, float], None, None]:  # fmt: skip
    if (session := session_for(trajectory)) is None:
        for number, other in enumerate(track(others, "runs", len(others))):
            began = time.perf_counter()
            found = _retrained(trajectory, other, query, single, windows)
            yield number, found, time.perf_counter() - began
        return
    asked = {"what": "run", **asked_of(trajectory, query, windows), "loo": [label(single), code_key(single)]}
    slices = [
        Slice({**asked, "other": str(other), "start": start}, _retrained, (other, query, single, windows))
        for other, start in zip(others, starts, strict=True)
    ]
    with closing(session.of(trajectory, "runs", slices)) as each:
        for number, found in each:
            yield number, found, float(found.attrs["slice_seconds"])


def _retrained(
    trajectory: Trajectory, other: Repetition, query: Query, single: LOO, windows: Sequence[Window]
) -> xr.Dataset:
    run = other.again(trajectory)
    try:
        effects = estimate(run, query, single, list(windows)).influence.values
    except DivergedError as error:
        raise DivergedError(f"{other}: {error}") from error
    accuracy = float(run.attrs.get("accuracy", np.nan))
    return xr.Dataset({"effects": (("query", "window", "train"), effects), "accuracy": accuracy})
