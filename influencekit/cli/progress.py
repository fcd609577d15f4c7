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
    """Within the block, draw what the long loops announce; nothing unless `stream` (stderr) is a terminal.

    Loops announce by `influencekit.progress.track`; they are drawn once `after` seconds have passed.

    Example:

        >>> from influencekit.extend import progress
        >>> with progress():
        ...     pass  # whatever takes long
    """
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
        self._began = time.monotonic()

    def update(self, what: str, done: int, total: int) -> None:
        """A loop has finished `done` of `total`; loops begun after it are inside it, and over."""
        levels = dict(self._levels)
        inner = list(levels)[list(levels).index(what) :] if what in levels else []
        for name in inner:
            del levels[name]
        if not (levels or inner):
            self._began = time.monotonic()
        if done < total:
            levels[what] = (done, total)
        self._levels = levels

    def now(self) -> tuple[float | None, str]:
        """The fraction done, and `42 s, 61 s left: seeds 3/16, estimators 1/3`.

        None and `42 s: working` outside of all loops. The time left is that of the outermost loop at its mean
        speed so far. Where an item holds several inner loops, each counts as all of it, so both are rough.
        """
        levels, spent = list(self._levels.items()), time.monotonic() - self._began
        if not levels:
            return None, f"{_clock(spent)}: working"
        fraction = 0.0
        for _, (done, total) in reversed(levels):
            fraction = (done + fraction) / total
        left = f", {_clock(spent * (1 - fraction) / fraction)} left" if fraction else ""
        parts = [f"{what} {done + 1}/{total}" if total > 1 else what for what, (done, total) in levels]
        return fraction, f"{_clock(spent)}{left}: {', '.join(parts)}"


def _draw(loops: Loops, stream: TextIO, after: float, done: threading.Event) -> None:
    """Draws until `done`, from a thread of its own: the clock moves even while one item takes long."""
    if done.wait(after):
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(file=stream, color_system=None if os.environ.get("NO_COLOR") else "auto")
    with Progress(
        BarColumn(16), TextColumn("{task.description}", markup=False), console=console, transient=True,
        auto_refresh=False, redirect_stdout=False,
    ) as drawn:  # fmt: skip
        task = drawn.add_task("", total=None)
        while True:
            fraction, text = loops.now()
            total = None if fraction is None else 1.0
            drawn.update(task, description=text, total=total, completed=fraction or 0.0, refresh=True)
            if done.wait(0.25):
                return


def _clock(seconds: float) -> str:
    """`42 s`, `12 min 5 s`."""
    whole = int(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60} s"
