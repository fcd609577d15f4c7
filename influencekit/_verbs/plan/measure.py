"""Seconds of some work as a line in its steps, and the memory that it takes: measured on the first steps."""

import os
import shutil
from collections.abc import Callable
from typing import NamedTuple

import torch

from influencekit._effects.pace import Stopwatch

__all__ = ["Line", "Peak", "free_disk", "line_of", "machine_memory"]

_SOON = 0.3  # seconds that the steps take by which two pieces differ, where steps are short
_LONGER = 8  # times


class Line(NamedTuple):
    """`first` seconds that are paid once, and `step` for each step; `timed` steps were measured."""

    first: float
    step: float
    timed: int

    def seconds(self, steps: float) -> float:
        return self.first + steps * self.step


def line_of(work: Callable[[int], object], steps: int, device: torch.device) -> Line:
    """Time `work` of 1 and 2 steps, or of so many that those more take 0.3 s, but of no more than `steps`.

    The first call is timed by itself: what it takes beyond its step (tracing, checks) is paid once.
    """
    watch = Stopwatch(device)

    def timed(some: int) -> float:
        return watch.seconds(lambda: work(some))

    cold = timed(1)
    if steps < 2:
        return Line(0.0, watch.wall(cold), 1)
    low, high = 1, 2
    short, long = timed(low), timed(high)
    while long - short < _SOON and high < steps:  # what every call costs says nothing about a step
        high = min(steps, _LONGER * high)
        long = timed(high)
    step = (long - short) / (high - low) if long > short else long / high
    return Line(watch.wall(max(0.0, cold - step)), watch.wall(step), high)


class Peak:
    """The most memory that this process, or its GPU, has had since `begin`, in bytes; None where the system
    does not say."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device if device.type == "cuda" else None

    def begin(self) -> None:
        if self._gpu is not None:
            torch.cuda.reset_peak_memory_stats(self._gpu)
            return
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # see proc(5)
        except OSError:
            pass  # the peak is then that since the process began

    def bytes(self) -> int | None:
        if self._gpu is not None:
            return int(torch.cuda.max_memory_allocated(self._gpu))
        try:
            with open("/proc/self/status") as file:
                lines = file.read().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        except (OSError, StopIteration):
            pass
        try:
            import resource
            import sys
        except ImportError:
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def free_disk() -> int:
    """Bytes that are free where this process works."""
    return shutil.disk_usage(".").free


def machine_memory() -> int | None:
    """Bytes of memory that this machine has; None where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
