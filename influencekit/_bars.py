"""Progress on a terminal or in a notebook: one line with the time left, from the third second on, then gone.

Verbs show it by themselves, and so do commands. Nothing is drawn where stderr is no terminal, where the
environment says INFLUENCEKIT_PROGRESS=0, while a bar of tqdm stands, or where somebody listens already.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import ParamSpec, TextIO, TypeVar

from influencekit._exclusive import exclusive
from influencekit.progress import listen, listening

__all__ = ["Loops", "clock", "note", "progress", "with_progress"]

P = ParamSpec("P")
T = TypeVar("T")

_drawing = threading.Lock()


@contextmanager
def progress(stream: TextIO | None = None, after: float = 2.0) -> Iterator[None]:
    """Within the block, draw what the long loops announce; nothing unless `stream` (stderr) is a terminal.

    Loops announce by `influencekit.progress.track`; they are drawn once `after` seconds have passed. Inside
    of another such block, or of a bar of tqdm, and while another thread draws, nothing is drawn.
    INFLUENCEKIT_PROGRESS=0 in the environment switches it off.

    Example:

        >>> from influencekit.extend import progress
        >>> with progress():
        ...     pass  # whatever takes long
    """
    stream = stream or sys.stderr
    if listening() or os.environ.get("INFLUENCEKIT_PROGRESS") == "0" or _tqdm_stands():
        yield
        return
    draw = _draw if stream.isatty() else _draw_in_notebook if _notebook() else None
    if draw is None or not _drawing.acquire(blocking=False):  # another thread draws
        yield
        return
    loops, done = Loops(), threading.Event()
    thread = threading.Thread(target=draw, args=(loops, stream, after, done), daemon=True)
    thread.start()
    try:
        with listen(loops.update):
            yield
    finally:
        done.set()
        thread.join()
        _drawing.release()


def with_progress(verb: Callable[P, T]) -> Callable[P, T]:
    """The verb, one thread at a time (`exclusive`), with progress drawn while it works."""

    @wraps(verb)
    def shown(*args: P.args, **kwargs: P.kwargs) -> T:
        with progress(), exclusive():
            return verb(*args, **kwargs)

    return shown


def note(text: str) -> None:
    """One line on stderr about work that is to come; nothing where progress is switched off."""
    if os.environ.get("INFLUENCEKIT_PROGRESS") != "0":
        with suppress(OSError, AttributeError):  # there is nobody to read it
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


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
            return None, f"{clock(spent)}: working"
        fraction = 0.0
        for _, (done, total) in reversed(levels):
            fraction = (done + fraction) / total
        left = f", {clock(spent * (1 - fraction) / fraction)} left" if fraction else ""
        parts = [f"{what} {done + 1}/{total}" if total > 1 else what for what, (done, total) in levels]
        return fraction, f"{clock(spent)}{left}: {', '.join(parts)}"


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


def clock(seconds: float) -> str:
    """`42 s`, `12 min 5 s`."""
    whole = int(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60} s"


def _draw_in_notebook(loops: Loops, stream: TextIO, after: float, done: threading.Event) -> None:
    """One line that is written over, which is all that a notebook's output can do without a library."""
    width = 0
    while not done.wait(after):
        after, text = 0.5, loops.now()[1]
        stream.write("\r" + text.ljust(width))
        stream.flush()
        width = len(text)
    if width:
        stream.write("\r" + " " * width + "\r")
        stream.flush()


def _notebook() -> bool:
    """Whether this runs in a Jupyter kernel, whose stderr is no terminal and is seen all the same."""
    interactive = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(interactive).__name__ == "ZMQInteractiveShell"


def _tqdm_stands() -> bool:
    """Whether a bar of tqdm is on the screen: two would write over each other."""
    bars = getattr(getattr(sys.modules.get("tqdm"), "tqdm", None), "_instances", ())
    return any(not getattr(bar, "disable", False) for bar in list(bars))
