"""Timing side by side: all jobs in turn in every round, so that a busy machine disturbs all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What some work gives, and its wall-clock seconds."""
    began = time.perf_counter()
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return found, time.perf_counter() - began


@dataclass(frozen=True)
class Times:
    """{job: seconds of every round}, of the wall clock and of the processor (all threads)."""

    wall: dict[str, list[float]]
    cpu: dict[str, list[float]]

    def median(self, job: str) -> float:
        return statistics.median(self.wall[job])

    def ratio(self, job: str, to: str, clock: str = "wall") -> float:
        """The median over the rounds of a job's time relative to another's."""
        times = getattr(self, clock)
        return statistics.median(a / b for a, b in zip(times[job], times[to], strict=True))

    def ratio_of_fastest(self, job: str, to: str, clock: str = "wall") -> float:
        """The fastest round of a job relative to the fastest of another."""
        times = getattr(self, clock)
        return min(times[job]) / min(times[to])


def side_by_side(
    jobs: Mapping[str, Callable[[], object]], rounds: int, after: Callable[[], object] | None = None
) -> Times:
    """Time all jobs in each round, every other round backwards; `after` runs untimed after each job."""
    times = Times({job: [] for job in jobs}, {job: [] for job in jobs})
    for round_ in range(rounds):
        for job in reversed(jobs) if round_ % 2 else jobs:
            busy = time.process_time()
            times.wall[job].append(timed(jobs[job])[1])
            times.cpu[job].append(time.process_time() - busy)
            if after is not None:
                after()
    return times
