"""Progress on a terminal: one line on stderr with the time left, from the third second on, then gone."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from influencekit.progress import listen

__all__ = ["Loops", "progress"]


@contextmanager
def progress(stream: TextIO | None = None, after: float = 2.0) -> Iterator[None]:
    """Within the block, draw what the long loops announce; nothing unless `stream` (stderr) is a terminal."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield
        return
    loops, done = Loops(), threading.Event()
    thread = threading.Thread(target=_draw, args=(loops, stream, after, done), daemon=True)
    thread.start()
    try:
        with listen(loops.update):
            yield
    finally:
        done.set()
        thread.join()


class Loops:
    """The loops that run now, outermost first, and how far the outermost one is."""

    def __init__(self) -> None:
        self._levels: dict[str, tuple[int, int]] = {}
        self._farthest = 0.0
        self.outermost = 0  # how many loops began outside of all others

    def update(self, what: str, done: int, total: int) -> None:
        """A loop has finished `done` of `total`; loops begun after it are inside it, and over."""
        levels = dict(self._levels)
        inner = list(levels)[list(levels).index(what) :] if what in levels else []
        for name in inner:
            del levels[name]
        if not (levels or inner):
            self._farthest, self.outermost = 0.0, self.outermost + 1
        if done < total:
            levels[what] = (done, total)
        self._levels = levels

    def now(self) -> tuple[str, float | None]:
        """`seeds 3/16, estimators 1/3` and the fraction done, which never falls; `working`, None outside."""
        levels = list(self._levels.items())
        if not levels:
            return "working", None
        fraction = 0.0
        for _, (done, total) in reversed(levels):
            fraction = (done + fraction) / total
        self._farthest = max(self._farthest, fraction)  # one item may hold several inner loops
        parts = [f"{what} {done + 1}/{total}" if total > 1 else what for what, (done, total) in levels]
        return ", ".join(parts), self._farthest


def _draw(loops: Loops, stream: TextIO, after: float, done: threading.Event) -> None:
    """Draws until `done`, from a thread of its own: the clock moves even while one item takes long."""
    began = time.monotonic()
    if done.wait(after):
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(16),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    console = Console(file=stream, color_system=None if os.environ.get("NO_COLOR") else "auto")
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False, redirect_stdout=False,
        speed_estimate_period=300,
    ) as drawn:  # fmt: skip
        task = drawn.add_task("working", total=None)
        drawn.tasks[0].start_time = began
        outermost = loops.outermost
        while True:
            if loops.outermost != outermost:
                drawn.reset(task)  # another loop: its speed and its clock are another's
                outermost = loops.outermost
            text, fraction = loops.now()
            total = None if fraction is None else 1.0
            drawn.update(task, description=text, total=total, completed=fraction or 0.0, refresh=True)
            if done.wait(0.25):
                return
